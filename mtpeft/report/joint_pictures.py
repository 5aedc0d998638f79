"""Picture grids of a joint run: input, truth and prediction of its worst and best cases, inside the page as data URIs.

A run keeps them in the folder that results.json names, with an index.json beside the PNG files:
{"tasks": {task: {"best": [case, ...], "worst": [case, ...]}}}, a case being
{"sample": name, "score": number or null, "image": file, "truth": file, "prediction": file}.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtpeft.errors import DataError
from mtpeft.evaluation.schema import ENTRY, TEXT, MapOf, check
from mtpeft.report.groups import Results
from mtpeft.report.layout import grid, titled
from mtpeft.report.markup import Raw, escape
from mtpeft.report.numbers import measured, number

CASE = {"sample": TEXT, "score": ENTRY, "image": TEXT, "truth": TEXT, "prediction": TEXT}
INDEX = {"tasks": MapOf({"best": [CASE], "worst": [CASE]})}
KINDS = ("worst", "best")
PARTS = {"image": "input", "truth": "truth", "prediction": "prediction"}
PNG = b"\x89PNG\r\n\x1a\n"


def picture_grids(run: Results, folder: Path | None, most: int) -> str:
    """The cases of every task, at most `most` of each kind; a sentence where there are none to show.

    `folder` is the run folder, None when it is not known. Raises `DataError` for a damaged index or picture.
    """
    if run["pictures"] is None:
        return _sentence("This run wrote no pictures.")
    if folder is None:
        return _sentence("The pictures are in the run folder, which was not given to this report.")
    pictures = folder / run["pictures"]
    if not pictures.is_dir():
        return _sentence(f"The run folder has no folder {run['pictures']!r}: its pictures were moved or deleted.")
    tasks = _read_index(pictures / "index.json")
    blocks = []
    for task in run["tasks"]:
        cases = tasks.get(task["name"], {})
        rows = "".join(_row(kind, cases.get(kind, [])[:most], task, pictures) for kind in KINDS)
        blocks.append(titled(f"{task['name']}: {measured(task)}", rows or _sentence("No pictures of this task.")))
    return f'<div class="pictures">{"".join(blocks)}</div>'


def _sentence(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _read_index(path: Path) -> Mapping[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        check(index, INDEX, "")
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"{path} does not describe the pictures of a run: {error}; evaluate the run again") from error
    return index["tasks"]


def _row(kind: str, cases: Sequence[Mapping[str, Any]], task: Mapping[str, Any], folder: Path) -> str:
    if not cases:
        return ""
    figures = [_figure(case, task, folder) for case in cases]
    return f'<p class="kind">{kind.capitalize()}</p>{grid(figures, "cases")}'


def _figure(case: Mapping[str, Any], task: Mapping[str, Any], folder: Path) -> str:
    score = "" if case["score"] is None else f" · {number(case['score'], task['unit'])} {task['unit']}".rstrip()
    images = "".join(
        f'<div><img src="{_data_uri(folder, case[part])}" alt="{escape(_alt(name, case, task))}" loading="lazy">'
        f"<span>{name}</span></div>"
        for part, name in PARTS.items()
    )
    return (
        f'<figure><div class="triple">{images}</div><figcaption>{escape(case["sample"] + score)}</figcaption></figure>'
    )


def _alt(name: str, case: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    return f"input {case['sample']}" if name == "input" else f"{name} of {task['name']} for {case['sample']}"


def _data_uri(folder: Path, name: str) -> Raw:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{folder / 'index.json'} names {name!r}, which is outside its folder")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{folder / 'index.json'} names {name!r}, which cannot be read: {error}") from error
    if not data.startswith(PNG):
        raise DataError(f"{path} is not a PNG file; evaluate the run again")
    return Raw(f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}")
