"""A labelled video file, and which of a list of files can be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtpeft.errors import ConfigError, DataError


@dataclass(frozen=True)
class VideoRecord:
    """One video file of class `label`; `name` is its path below the data set's folder."""

    path: str
    label: int
    name: str


@dataclass(frozen=True)
class Listing:
    """What an annotation says: the files of a split and the names of the classes.

    `flip` is false where a mirror image may change the class (left and right).
    """

    records: tuple[VideoRecord, ...]
    classes: tuple[str, ...]
    flip: bool = True


def usable(
    records: Sequence[VideoRecord], bad: Mapping[str, str], max_bad_share: float, name: str
) -> list[VideoRecord]:
    """The records whose path is not in `bad` (path: reason).

    Raises `DataError` with the count and the first reason when more than `max_bad_share` of the records are bad, or all.
    """
    check_share(max_bad_share)
    reasons = [bad[record.path] for record in records if record.path in bad]
    if len(reasons) > max_bad_share * len(records) or len(reasons) == len(records):
        raise too_many(name, len(reasons), len(records), reasons[0] if reasons else "no video listed", max_bad_share)
    return [record for record in records if record.path not in bad]


def missing_files(records: Sequence[VideoRecord]) -> dict[str, str]:
    """Path and reason of every record whose file is not there."""
    return {r.path: f"{r.path} is missing" for r in records if not Path(r.path).exists()}


def too_many(name: str, count: int, total: int, first: str, share: float) -> DataError:
    """The error for more bad files than are allowed."""
    return DataError(
        f"data set {name!r}: {count} of {total} videos cannot be used, first: {first}; restore them, or allow a larger "
        f"share by data.max_bad_share (now {share:g})"
    )


def check_share(share: float) -> None:
    """Raise `ConfigError` for a share outside 0 to 1."""
    if not 0 <= share <= 1:
        raise ConfigError(f"data.max_bad_share is {share}, expected 0 to 1")
