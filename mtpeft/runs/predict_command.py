"""`mtpeft predict`: predictions of files as a table, as CSV or JSON, and of dense tasks as pictures and arrays.

predictions.csv has a line for each input and task: `input`, `task`, then the classes with the largest probabilities in
pairs of columns (`class`, `probability`, `class_2`, ...), or of maps what the most pixels are (`value`, `share`, ...) and
the names of their files. predictions.json has the same as {"predictions": [...], "unreadable": [{input, reason}]}.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtpeft.bars import bar
from mtpeft.errors import ConfigError, DataError
from mtpeft.files import check_writable, write_atomic
from mtpeft.printing import print_table
from mtpeft.runs.console import open_console
from mtpeft.runs.input_files import input_files, names_below
from mtpeft.runs.predicted import Classes, Map, Prediction
from mtpeft.runs.prediction import load_run

#: one input and task: {"input", "task", "top": [[name, number], ...], "files": {"map", "values", "overlay"}}
Record = dict[str, Any]
FILES = ("map", "values", "overlay")


def run(
    folder: Path,
    inputs: Sequence[str | Path],
    *,
    tasks: Sequence[str] | None = None,
    out: Path | None = None,
    top: int = 5,
    batch_size: int | None = None,
    form: str | None = None,
    device: str = "auto",
    best: bool = False,
    trust_imports: bool = False,
) -> int:
    """Predict, and write into `out` or print; the exit code: 1 where an input cannot be read, which is named on stderr."""
    for option, number in (("top", top), ("batch-size", batch_size)):
        if number is not None and number < 1:
            raise ConfigError(f"--{option} is {number}, expected 1 or more")
    if out is not None:
        check_writable(out)
    predictor = load_run(folder, device, trust_imports=trust_imports, best=best)
    reader = predictor.input(tasks[0] if tasks else predictor.tasks[0])
    files, errors = input_files(inputs, reader.ends)
    chosen: dict[str, Any] = {"task": tasks[0]} if tasks and len(tasks) == 1 else {"tasks": tasks}
    records: list[Record] = []
    unreadable = [{"input": str(error).partition(":")[0], "reason": str(error)} for error in errors]
    each = bar(predictor.each(files, **chosen, batch_size=batch_size), "predicting", "input", len(files))
    for file, place, found in zip(files, names_below(files), each, strict=True):
        if isinstance(found, DataError):
            unreadable.append({"input": str(file), "reason": " ".join(str(found).split())})
            continue
        for prediction in found.values() if isinstance(found, dict) else [found]:
            made = {} if out is None or isinstance(prediction, Classes) else write_map(prediction, out, place)
            records.append(record(prediction, str(file), top, made))
    _deliver(records, unreadable, out, form)
    if unreadable:
        print(f"mtpeft: {len(unreadable)} of {len(files) + len(errors)} inputs cannot be read:", file=sys.stderr)
        for one in unreadable:
            print(f"  {one['reason']}", file=sys.stderr)
    return 1 if unreadable else 0


def record(prediction: Prediction, name: str, top: int, made: dict[str, str]) -> Record:
    """What is written of one prediction; `made` are the names of a map's files."""
    several = prediction.top(top) if isinstance(prediction, Classes) else prediction.shares(top)
    kind = "classes" if isinstance(prediction, Classes) else "map"
    return {"input": name, "task": prediction.task or "", "kind": kind, "top": several, "files": made}


def write_map(prediction: Map, out: Path, place: Path) -> dict[str, str]:
    """Write the map in the task's colours, its values (.npy) and it over the picture; their names below `out`.

    They stand where the picture stands among the inputs, under its whole name: no two inputs have the same.
    """
    stem = f"{place.as_posix()}.{prediction.task}"
    values = io.BytesIO()
    np.save(values, prediction.values, allow_pickle=False)
    contents = {
        f"{stem}.png": _png(prediction.picture),
        f"{stem}.npy": values.getvalue(),
        f"{stem}.overlay.png": _png(prediction.overlay()),
    }
    for name, content in contents.items():
        write_atomic(out / name, content)
    return dict(zip(FILES, contents, strict=True))


def as_csv(records: Sequence[Record]) -> str:
    """A line for each record, under a header."""
    most = max((len(one["top"]) for one in records), default=0)
    words = ("value", "share") if any(one["kind"] == "map" for one in records) else ("class", "probability")
    files = [name for name in FILES if any(name in one["files"] for one in records)]
    pairs = [f"{word}_{number}" if number > 1 else word for number in range(1, most + 1) for word in words]
    stream = io.StringIO()
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow(["input", "task", *pairs, *files])
    for one in records:
        cells = [text for name, number in one["top"] for text in (name, f"{number:.6f}")]
        padding = [""] * (2 * most - len(cells))
        lines.writerow([one["input"], one["task"], *cells, *padding, *(one["files"].get(name, "") for name in files)])
    return stream.getvalue()


def as_json(records: Sequence[Record], unreadable: Sequence[dict[str, str]]) -> str:
    """Both lists."""
    found = []
    for one in records:
        key, name, number = (
            ("shares", "value", "share") if one["kind"] == "map" else ("classes", "class", "probability")
        )
        pairs = [{name: first, number: second} for first, second in one["top"]]
        found.append({"input": one["input"], "task": one["task"] or None, key: pairs, **one["files"]})
    return json.dumps({"predictions": found, "unreadable": list(unreadable)}, indent=1) + "\n"


def _deliver(
    records: Sequence[Record], unreadable: Sequence[dict[str, str]], out: Path | None, form: str | None
) -> None:
    """Into `out`, else on stdout."""
    if out is None and form is None:
        _print_table(records)
        return
    text = as_json(records, unreadable) if form == "json" else as_csv(records)
    if out is None:
        sys.stdout.write(text)
        return
    file = out / f"predictions.{form or 'csv'}"
    write_atomic(file, text)
    maps = sum(bool(one["files"]) for one in records)
    more = f", {maps} maps beside it" if maps else ""
    open_console().print(f"{file}: {len(records)} predictions{more}", soft_wrap=True, markup=False, highlight=False)


def _print_table(records: Sequence[Record]) -> None:
    """A row for each record; the task where there are several."""
    if not records:
        return
    tasks = len({one["task"] for one in records}) > 1
    words = ("value", "share [%]") if records[0]["kind"] == "map" else ("class", "probability [%]")
    rows = []
    for one in records:
        (first, number), *others = one["top"]
        after = ", ".join(f"{name} {100 * value:.1f}" for name, value in others)
        rows.append([one["input"], *([one["task"]] if tasks else []), first, f"{100 * number:.1f}", after])
    print_table(open_console(), ["input", *(["task"] if tasks else []), *words, "then"], rows, transposable=False)


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
