"""Test clips of a continual run as rows of frames, with what the model took them for and which frames it looked at.

The index.json beside the PNG files is described in mtpeft/continual/strips.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtpeft.errors import DataError
from mtpeft.evaluation.schema import ENTRY, FLAG, POSITIVE, TEXT, VALUE
from mtpeft.report.groups import Results
from mtpeft.report.heatmap import colour_at, text_colour
from mtpeft.report.layout import titled
from mtpeft.report.markup import escape
from mtpeft.report.pictures import data_uri, of_tasks, sentence

PREDICTION = {"truth": TEXT, "predicted": TEXT, "right": FLAG, "probability": ENTRY}
STRIP = {"sample": TEXT, "image": TEXT, "frames": POSITIVE, **PREDICTION, "temporal": VALUE, "weights": VALUE}
NARROWEST = 34  # pixels of a frame, below which a strip scrolls sideways
WRITTEN = 8  # frames up to which the weights are written out
CELL = 10  # units of the drawing's own


def clip_strips(run: Results, folder: Path | None, most: int | None = None) -> str:
    """The strips of every task, at most `most` of each; a sentence where there are none to show.

    `folder` is the run folder, None when it is not known. Raises `DataError` for a damaged index or picture.
    """

    def block(task: Mapping[str, Any], strips: list[Any] | None, pictures: Path) -> str:
        figures = "".join(_figure(strip, pictures) for strip in (strips or [])[:most])
        return titled(task["name"], figures or sentence("No clips of this task."))

    return of_tasks(run, folder, [STRIP], block)


def _figure(strip: Mapping[str, Any], folder: Path) -> str:
    _check_shapes(strip, folder)
    frames = strip["frames"]
    truth, right = strip["truth"], strip["right"]
    predicted = strip["predicted"]
    sure = "" if strip["probability"] is None else f" (probability {strip['probability']:.2f})"
    caption = (
        f'<span class="verdict">{"✓ right" if right else "✗ wrong"}:</span> '
        f"{escape(truth if right else f'{truth}, taken for {predicted}')}{sure}"
        f"<br>{escape(strip['sample'])}"
    )
    alt = f"{frames} frames of clip {strip['sample']}, from the first to the last"
    image = f'<img src="{data_uri(folder, strip["image"])}" alt="{escape(alt)}" loading="lazy">'
    weights = "" if strip["weights"] is None else _weights(strip["weights"])
    label = escape(f"clip {strip['sample']}")
    return (
        f'<figure class="strip"><div class="film"><div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<div style="min-width:{NARROWEST * frames}px">{image}{weights}</div></div>'
        f"<figcaption>{caption}</figcaption></div>{'' if strip['temporal'] is None else _attention(strip)}</figure>"
    )


def _weights(weights: Sequence[float]) -> str:
    """A cell below each frame; the darker, the more it counts."""
    most = max(weights) or 1.0
    cells = []
    for weight in weights:
        shade = weight / most
        text = f"{weight:.2f}" if len(weights) <= WRITTEN else ""
        style = f"background:{colour_at(shade)};color:{text_colour(shade)}"
        cells.append(f'<span style="{style}" title="{weight:.3f}">{text}</span>')
    label = "weights of the frames: " + ", ".join(f"{weight:.2f}" for weight in weights)
    return (
        f'<div class="shares" role="img" aria-label="{label}" style="grid-template-columns:repeat({len(weights)},1fr)">'
        f"{''.join(cells)}</div>"
    )


def _attention(strip: Mapping[str, Any]) -> str:
    """Which frame (row) attends to which (column), as a drawing; the strongest of each row in words."""
    rows, total = strip["temporal"], strip["frames"]
    low, high = min(map(min, rows)), max(map(max, rows))
    span = high - low or 1.0
    cells = "".join(
        f'<rect x="{CELL * j}" y="{CELL * i}" width="{CELL}" height="{CELL}" fill="{colour_at((value - low) / span)}">'
        f"<title>frame {i + 1} to frame {j + 1}: {value:.3f}</title></rect>"
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
    )
    told = "; ".join(
        f"frame {i} most to frame {row.index(max(row)) + 1} ({max(row):.2f})" for i, row in enumerate(rows, 1)
    )
    return (
        f'<div class="attention"><svg viewBox="0 0 {CELL * total} {CELL * total}" role="img" '
        f'aria-label="temporal attention: {told}">{cells}</svg>'
        f"<span>temporal attention, {low:.2f} (light) to {high:.2f}</span></div>"
    )


def _check_shapes(strip: Mapping[str, Any], folder: Path) -> None:
    total = strip["frames"]
    place = f"{folder / 'index.json'}: the clip {strip['sample']!r}"
    weights, temporal = strip["weights"], strip["temporal"]
    if weights is not None and not _numbers(weights, total):
        raise DataError(f"{place} needs `weights` of {total} frames; run the recipe again")
    square = isinstance(temporal, list) and len(temporal) == total and all(_numbers(row, total) for row in temporal)
    if temporal is not None and not square:
        raise DataError(f"{place} needs `temporal` of {total} x {total} frames; run the recipe again")


def _numbers(values: Any, total: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == total
        and all(isinstance(v, (int, float)) and v >= 0 for v in values)
    )
