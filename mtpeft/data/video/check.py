"""Which videos of a data set can be read, found out once and remembered."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtpeft.bars import bar
from mtpeft.data.video.decoders import decoder_version
from mtpeft.data.video.decoding import TIME_LIMIT, read_clip
from mtpeft.data.video.records import VideoRecord
from mtpeft.errors import DataError
from mtpeft.files import write_atomic

SAVE_EVERY = 200


def check_videos(
    records: Sequence[VideoRecord],
    decoder: str = "decord",
    limit: float = TIME_LIMIT,
    index: str | os.PathLike[str] | None = None,
) -> dict[str, str]:
    """Path and reason of every video that cannot be read, of which first, middle and last frame are decoded.

    `index` is a JSON file that remembers the results by path, size, time of change and decoder, so that the next check
    reads only what changed.
    """
    version = decoder_version(decoder)
    known = _read_index(index)
    results: dict[str, str | None] = {}
    fresh = 0
    for record in bar(records, "checking videos", "video", least=SAVE_EVERY):
        key = _key(record.path, version)
        if key not in known:
            known[key] = _reason(record.path, decoder, limit)
            fresh += 1
            if fresh % SAVE_EVERY == 0:
                _write_index(index, known)
        results[record.path] = known[key]
    if fresh:
        _write_index(index, known)
    return {path: reason for path, reason in results.items() if reason is not None}


def _reason(path: str, decoder: str, limit: float) -> str | None:
    try:
        read_clip(path, lambda count: np.array([0, count // 2, count - 1]), decoder, limit)
    except DataError as error:
        return str(error)
    return None


def _key(path: str, version: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return f"{path}|missing|{version}"
    return f"{path}|{status.st_size}|{status.st_mtime_ns}|{version}"


def _read_index(index: str | os.PathLike[str] | None) -> dict[str, str | None]:
    if index is None or not Path(index).is_file():
        return {}
    try:
        return dict(json.loads(Path(index).read_text()))
    except (ValueError, TypeError):
        warnings.warn(f"{index} is damaged: all videos are checked again", stacklevel=3)
        return {}


def _write_index(index: str | os.PathLike[str] | None, known: dict[str, str | None]) -> None:
    if index is not None:
        write_atomic(index, json.dumps(known, indent=1) + "\n")
