"""Pictures of a run inside the page: found in the run folder, described by an index.json, embedded as data URIs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtpeft.errors import DataError
from mtpeft.evaluation.schema import MapOf, check
from mtpeft.report.groups import Group, Results
from mtpeft.report.layout import details
from mtpeft.report.markup import Raw, escape

PNG = b"\x89PNG\r\n\x1a\n"


def of_tasks(run: Results, folder: Path | None, spec: Any, block: Callable[[Mapping[str, Any], Any, Path], str]) -> str:
    """`block(task, its entry of the index or None, folder of the pictures)` of every task; a sentence where there are none.

    `folder` is the run folder, None when it is not known, `spec` what the index holds for each task. Raises `DataError` for
    a damaged index or picture.
    """
    pictures = find_pictures(run, folder)
    if isinstance(pictures, str):
        return sentence(pictures)
    tasks = read_index(pictures, {"tasks": MapOf(spec)})
    blocks = [block(task, tasks.get(task["name"]), pictures) for task in run["tasks"]]
    return f'<div class="pictures">{"".join(blocks)}</div>'


def of_groups(groups: Sequence[Group], render: Callable[[Results, bool], str]) -> str:
    """`render(run, alone)` of the first run of each group, folded where there are several groups."""
    if len(groups) == 1:
        return render(groups[0].runs[0], True)
    return "".join(
        details(f"{group.label}, seed {group.runs[0]['seed']}", render(group.runs[0], False)) for group in groups
    )


def find_pictures(run: Results, folder: Path | None) -> Path | str:
    """The run's folder of pictures, or a sentence that says why there is none; `folder` is the run's own, if known."""
    name = run.get("pictures")
    if name is None:
        return "This run wrote no pictures."
    if folder is None:
        return "The pictures are in the run folder, which was not given to this report."
    if not (folder / name).is_dir():
        return f"The run folder has no folder {name!r}: its pictures were moved or deleted."
    return folder / name


def read_index(pictures: Path, spec: Any) -> Mapping[str, Any]:
    """The key `tasks` of the folder's index.json. Raises `DataError` when `spec` does not allow it."""
    path = pictures / "index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        check(index, spec, "")
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"{path} does not describe the pictures of a run: {error}; run the recipe again") from error
    return index["tasks"]


def sentence(text: str) -> str:
    """A note as a paragraph."""
    return f'<p class="note">{escape(text)}</p>'


def data_uri(folder: Path, name: str) -> Raw:
    """A PNG file as a URI. Raises `DataError` for a name outside of `folder` and for a file that is no PNG."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{folder / 'index.json'} names {name!r}, which is outside its folder")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{folder / 'index.json'} names {name!r}, which cannot be read: {error}") from error
    if not data.startswith(PNG):
        raise DataError(f"{path} is not a PNG file; run the recipe again")
    return Raw(f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}")
