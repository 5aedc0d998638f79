"""Tables, keys of the legend and escaped text as HTML. Every text is escaped; only `Raw` is taken as it is."""

from __future__ import annotations

import html
from collections.abc import Sequence

from mtpeft.report.charts import NEUTRAL, palette


class Raw(str):
    """HTML that is already safe."""


Cell = str | Raw


def escape(text: object) -> str:
    """Text as HTML, quotes included."""
    return text if isinstance(text, Raw) else html.escape(str(text))


def table(caption: str, head: Sequence[Cell], rows: Sequence[Sequence[Cell]], text_columns: int = 1) -> str:
    """A table that scrolls sideways inside its box; the first cell of a row heads it, numbers stand right."""
    columns = "".join(
        f'<th scope="col"{_align(index, text_columns)}>{escape(title)}</th>' for index, title in enumerate(head)
    )
    body = []
    for row in rows:
        first = f'<th scope="row">{escape(row[0])}</th>'
        rest = "".join(f"<td{_align(i, text_columns)}>{escape(cell)}</td>" for i, cell in enumerate(row[1:], start=1))
        body.append(f"<tr>{first}{rest}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _align(index: int, text_columns: int) -> str:
    return "" if index < text_columns else ' class="n"'


def key(index: int, label: str) -> Raw:
    """A group's label with its colour and marker in the charts."""
    colour, _, glyph = palette(index)
    return Raw(f'<span class="key" style="color:{colour}" aria-hidden="true">{glyph}</span> {escape(label)}')


def baseline_key(index: int, label: str) -> Raw:
    """A baseline's label with its dash in the charts."""
    dash = ("dashed", "dotted")[index % 2]
    return Raw(
        f'<span class="key dash" style="border-top:2px {dash} {NEUTRAL}" aria-hidden="true"></span> {escape(label)}'
    )
