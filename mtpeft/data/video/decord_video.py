"""Video files read by decord, where it gives the frames asked for; the others by PyAV."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtpeft.data.video.packets import Look, look
from mtpeft.data.video.pyav_video import PyAVVideo
from mtpeft.data.video.reading import Array, Decoder, load, package_version, unreadable
from mtpeft.errors import ConfigError


def open_decord(path: str) -> Decoder:
    """Open a file with decord, or with PyAV where a look at its packets says that decord would give other frames.

    Raises `DataError` for a file that cannot be read, `ConfigError` where decord is not installed, or PyAV: nothing else
    can tell which files decord may read.
    """
    load("decord", "decord")
    try:
        found = look(path)
    except ConfigError as error:
        raise ConfigError(
            f"decord gives wrong frames of some files without an error; PyAV tells which, but {error}"
        ) from error
    if found.way == "not":
        return PyAVVideo(path, found.reason)
    video = DecordVideo(path, found)
    if len(video) != found.count:
        return PyAVVideo(path, f"decord counts {len(video)} frames of {found.count}")
    return video


class DecordVideo(Decoder):
    """decord's `VideoReader`. Opened per clip in the process that reads it: a reader does not survive a fork.

    Where entering at key frames would give wrong frames, frames are read in order from the start. Raises `DataError` for
    files it cannot open.
    """

    def __init__(self, path: str, found: Look) -> None:
        """`found`: what the packets say."""
        self._decord = load("decord", "decord")
        self._decord.logging.set_level(self._decord.logging.QUIET)
        self.path = path
        self.errors = (self._decord.DECORDError, RuntimeError, IndexError, OSError)
        self._enters = found.way == "enter"
        self.reader = package_version("decord") + (f", {found.reason}" if found.reason else "")
        self.fps = found.fps
        try:
            self._reader = self._open()
            self._count = len(self._reader)
        except self.errors as error:
            raise unreadable(path, error) from error
        self._position = 0

    def __len__(self) -> int:
        return self._count

    def _frames(self, indices: list[int]) -> Array:
        return np.asarray(self._reader.get_batch(indices).asnumpy() if self._enters else self._in_order(indices))

    def _in_order(self, indices: list[int]) -> Array:
        wanted = sorted(set(indices))
        if wanted[0] < self._position:
            self._reader, self._position = self._open(), 0
        found = {}
        for index in wanted:
            while self._position <= index:  # one by one: decord's own skipping seeks
                frame = self._reader.next()
                self._position += 1
            found[index] = frame.asnumpy()
        return np.stack([found[index] for index in indices])

    def _open(self) -> Any:
        return self._decord.VideoReader(self.path, ctx=self._decord.cpu(0), num_threads=1)
