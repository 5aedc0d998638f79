"""Picture grids of a joint run: input, truth and prediction of its worst and best cases, inside the page as data URIs.

A run keeps them in the folder that results.json names, with an index.json beside the PNG files:
{"tasks": {task: {"best": [case, ...], "worst": [case, ...]}}}, a case being
{"sample": name, "score": number or null, "image": file, "truth": file, "prediction": file}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtpeft.evaluation.schema import ENTRY, TEXT
from mtpeft.report.groups import Results
from mtpeft.report.layout import grid, titled
from mtpeft.report.markup import escape
from mtpeft.report.numbers import measured, number
from mtpeft.report.pictures import data_uri, of_tasks, sentence

CASE = {"sample": TEXT, "score": ENTRY, "image": TEXT, "truth": TEXT, "prediction": TEXT}
KINDS = ("worst", "best")
PARTS = {"image": "input", "truth": "truth", "prediction": "prediction"}


def picture_grids(run: Results, folder: Path | None, most: int) -> str:
    """The cases of every task, at most `most` of each kind; a sentence where there are none to show.

    `folder` is the run folder, None when it is not known. Raises `DataError` for a damaged index or picture.
    """

    def block(task: Mapping[str, Any], cases: dict[str, Any] | None, pictures: Path) -> str:
        rows = "".join(_row(kind, (cases or {}).get(kind, [])[:most], task, pictures) for kind in KINDS)
        return titled(f"{task['name']}: {measured(task)}", rows or sentence("No pictures of this task."))

    return of_tasks(run, folder, {"best": [CASE], "worst": [CASE]}, block)


def _row(kind: str, cases: Sequence[Mapping[str, Any]], task: Mapping[str, Any], folder: Path) -> str:
    if not cases:
        return ""
    figures = [_figure(case, task, folder) for case in cases]
    return f'<p class="kind">{kind.capitalize()}</p>{grid(figures, "cases")}'


def _figure(case: Mapping[str, Any], task: Mapping[str, Any], folder: Path) -> str:
    score = "" if case["score"] is None else f" · {number(case['score'], task['unit'])} {task['unit']}".rstrip()
    images = "".join(
        f'<div><img src="{data_uri(folder, case[part])}" alt="{escape(_alt(name, case, task))}" loading="lazy">'
        f"<span>{name}</span></div>"
        for part, name in PARTS.items()
    )
    return (
        f'<figure><div class="triple">{images}</div><figcaption>{escape(case["sample"] + score)}</figcaption></figure>'
    )


def _alt(name: str, case: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    return f"input {case['sample']}" if name == "input" else f"{name} of {task['name']} for {case['sample']}"
