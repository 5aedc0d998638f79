"""Pictures of a run inside the page: found in the run folder, described by an index.json, embedded as data URIs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtpeft.errors import DataError
from mtpeft.evaluation.schema import check
from mtpeft.report.groups import Results
from mtpeft.report.markup import Raw, escape

PNG = b"\x89PNG\r\n\x1a\n"


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
