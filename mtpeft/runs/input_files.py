"""The files a user names: those themselves, and all of the right sort below folders, in natural order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mtpeft.errors import DataError


def input_files(given: Iterable[str | Path], ends: Sequence[str]) -> tuple[list[Path], list[DataError]]:
    """Files as they are named, whatever they are; of folders those whose name has one of `ends` (lower case).

    Each once; hidden ones, those in hidden folders and behind links to folders are left out. The errors are of folders
    that have none or cannot be read; raised where nothing else is named.
    """
    found: dict[str, Path] = {}
    errors: list[DataError] = []
    for name in given:
        path = Path(name)
        try:
            files = _below(path, ends) if path.is_dir() else [path]
        except DataError as error:
            errors.append(error)
            continue
        if not files:
            errors.append(DataError(f"{path}: no file in it that the model takes ({', '.join(sorted(ends)[:6])}, ...)"))
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    if errors and not found:
        raise errors[0]
    return list(found.values()), errors


def names_below(files: Sequence[Path]) -> list[Path]:
    """The files' paths below the deepest folder they are all in: no two are the same."""
    whole = [Path(os.path.abspath(file)) for file in files]
    root = os.path.commonpath([file.parent for file in whole])
    return [file.relative_to(root) for file in whole]


def natural(path: Path) -> list[Any]:
    """A key that sorts numbers in names by value: frame2 before frame10."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [(-1, str(path))]


def _below(folder: Path, ends: Sequence[str]) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if name.lower().endswith(tuple(ends)) and name[0] != "."]
    return sorted(found, key=natural)
