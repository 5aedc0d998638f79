"""A list of pictures with labels: a CSV file, or JSON lines, as `type="ListFile"`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from mtpeft.data.picture_files import PictureFiles, check_files, part_of
from mtpeft.errors import ConfigError, DataError, nearest
from mtpeft.options import Length, Name, Share, WholeNumber

JSON_LINES = (".jsonl", ".ndjson")
CSV = (".csv", ".tsv", ".txt")


class Row(NamedTuple):
    """One picture of a list: `where` is file and line, `part` the word in the column of parts, if there is one."""

    where: str
    path: str
    label: str
    part: str | None


def list_file(
    train: bool,
    file: Name | tuple[Name, Name],
    root: str | None = None,
    path: Name = "path",
    label: Name = "label",
    split: Name = "split",
    parts: tuple[Name, Name] = ("train", "test"),
    delimiter: Annotated[str, Length(at_least=1, at_most=1)] = ",",
    test_share: Share | None = None,
    split_seed: WholeNumber = 0,
) -> PictureFiles:
    """The pictures of one part of a list with the columns (or keys) `path`, `label` and `split`, whose words are `parts`.

    `file` is a CSV file with a header and this `delimiter`, or JSON lines (.jsonl); or one for training and one for test.
    Those need no column of parts, nor does a list of which `test_share` of each class, drawn by `split_seed`, is the test
    part. Rows of "val" and "validation" are in neither. Paths are relative to `root`, by default the folder of the list.
    Classes are the labels of the whole list, in order of the numbers where all are whole numbers, else of the alphabet.
    Raises `DataError` that names file and line.
    """
    where = file if isinstance(file, str) else file[0 if train else 1]
    if isinstance(file, str):
        rows = _rows(Path(file), path, label, None if test_share is not None else split, delimiter)
        whole = rows
    else:
        if test_share is not None:
            raise ConfigError(
                "ListFile: data.test_share splits one list, but data.file names two; leave one of them out"
            )
        both = [_rows(Path(name), path, label, None, delimiter) for name in file]
        rows, whole = both[0 if train else 1], both[0] + both[1]
    classes = _ordered({row.label for row in whole})
    place = {name: number for number, name in enumerate(classes)}
    _check_labels(whole)
    if isinstance(file, str) and test_share is None:
        rows = _of_part(rows, parts, train, f"{where}: column {split!r}")
    samples = [(str(_folder(root, row) / row.path), place[row.label]) for row in rows]
    if test_share is not None:
        samples = [samples[index] for index in part_of([n for _, n in samples], test_share, split_seed, train)]
    check_files((name for name, _ in samples), where)
    return PictureFiles(samples, classes)


def _folder(root: str | None, row: Row) -> Path:
    return Path(row.where.rpartition(", line ")[0]).parent if root is None else Path(root)


def _ordered(labels: set[str]) -> list[str]:
    numbers = all(label.lstrip("-").isdecimal() for label in labels)
    return sorted(labels, key=int) if numbers else sorted(labels)


def _check_labels(rows: Sequence[Row]) -> None:
    """One label for a path, wherever it is listed."""
    seen: dict[str, Row] = {}
    for row in rows:
        known = seen.setdefault(row.path, row)
        if known.label != row.label:
            raise DataError(
                f"{row.where}: {row.path} has the label {row.label!r}, but {known.label!r} in {known.where}"
            )


def _of_part(rows: Sequence[Row], parts: tuple[str, str], train: bool, where: str) -> list[Row]:
    words = {row.part: row.where for row in rows}
    for word, place in words.items():
        if word not in parts and word not in ("val", "validation"):
            raise DataError(f"{place}: the part {word!r}, expected one of {', '.join(map(repr, parts))} (data.parts)")
    wanted = parts[0 if train else 1]
    if wanted not in words:
        raise DataError(f"{where} has no {wanted!r}, only {', '.join(map(repr, words))}; data.parts names its words")
    return [row for row in rows if row.part == wanted]


def _rows(file: Path, path: str, label: str, split: str | None, delimiter: str) -> list[Row]:
    """All rows of a list. Raises `DataError` for a file that cannot be read, a column it lacks and an empty value."""
    if file.suffix.lower() not in (*JSON_LINES, *CSV):
        raise ConfigError(f"ListFile: {file} is none of {', '.join((*CSV, *JSON_LINES))}; data.file names the list")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"ListFile: {file} cannot be read: {' '.join(str(error).split())}") from error
    entries = _json_lines(file, text) if file.suffix.lower() in JSON_LINES else _csv(file, text, delimiter)
    rows = []
    for where, entry in entries:
        values = {}
        for key, column in (("path", path), ("label", label), ("split", split)):
            if column is None:
                continue
            if column not in entry:
                raise DataError(
                    f"{where}: no column {column!r} (data.{key}), only {', '.join(map(repr, entry))}."
                    f"{nearest(column, map(str, entry))}"
                )
            value = entry[column]
            if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
                raise DataError(f"{where}: {column} is {value!r}, expected a text or a whole number")
            values[key] = str(value).strip()
        rows.append(Row(where, values["path"], values["label"], values.get("split")))
    if not rows:
        raise DataError(f"ListFile: {file} lists no image")
    return rows


def _csv(file: Path, text: str, delimiter: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for cells in reader:
            where = f"{file}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(f"{where}: {len(cells)} columns, but the header has {len(header)}")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}") from error


def _json_lines(file: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: no JSON: {error}") from error
        if not isinstance(entry, dict):
            raise DataError(f"{where}: {str(entry)[:60]!r}, expected a mapping with a key per column")
        yield where, entry
