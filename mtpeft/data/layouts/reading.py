"""What the layouts share: files that must be there, and lists of files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtpeft.errors import DataError


def needed(path: Path, kind: str, root: str, expected: str) -> Path:
    """`path` when it is there; `DataError` that says what `kind` expects in `root`."""
    if not path.exists():
        raise DataError(f"{kind} {root}: no {path.relative_to(root)} in it; expected {expected}")
    return path


def numbered_lines(file: Path) -> Iterator[tuple[int, str, int]]:
    """(line number, text, number) of lines "text number"; empty lines are left out. Raises `DataError` with the line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text, _, value = line.strip().rpartition(" ")
        try:
            yield number, text.strip(), int(value)
        except ValueError:
            raise DataError(f"{file}, line {number}: {line.strip()!r}, expected a path and a class number") from None


def read_pairs(file: Path, classes: int) -> list[tuple[str, int]]:
    """(path as written, label) of a list of lines "path label"; raises `DataError` for a label of no class."""
    pairs = []
    for number, path, label in numbered_lines(file):
        if not path or not 0 <= label < classes:
            raise DataError(f"{file}, line {number}: label {label}, expected a path and a label of 0 to {classes - 1}")
        pairs.append((path, label))
    if not pairs:
        raise DataError(f"{file}: no image in it")
    return pairs


def read_json(file: Path) -> Any:
    """The contents; raises `DataError` with the path for a damaged file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {' '.join(str(error).split())}") from error
