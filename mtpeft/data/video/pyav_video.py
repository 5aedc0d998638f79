"""Video files read by PyAV."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from mtpeft.data.video.packets import CACHE, Look, frame_rate, look, video_stream
from mtpeft.data.video.reading import Array, Decoder, load, package_version, unreadable
from mtpeft.errors import DataError


class PyAVVideo(Decoder):
    """PyAV: seeks to the key frame before a wanted frame and decodes forward, frames told by their time stamps.

    Where the packets do not tell the frames (`packets.look`), the file is decoded once to count them, and read from the
    start for every clip. Pictures are turned as the file's display matrix says.
    """

    def __init__(self, path: str, reason: str = "") -> None:
        """`reason`: why the decoder that was asked for does not read this file."""
        av = load("av", "pyav")
        self._av, self.path = av, path
        self.errors = (av.error.FFmpegError, OSError, ValueError)
        self.reader = f"{package_version('pyav')}, {reason}" if reason else package_version("pyav")
        self._look = look(path)
        self.fps = self._look.fps
        self._container: Any = None
        try:
            self._reopen()
            if self._look.count is not None:
                self._count = self._look.count
            else:
                status = os.stat(path)
                self._count, self.fps = _decoded(path, status.st_size, status.st_mtime_ns)
        except self.errors as error:
            raise unreadable(path, error) from error

    def __len__(self) -> int:
        return self._count

    def _frames(self, indices: list[int]) -> Array:
        wanted = sorted(set(indices))
        found = dict(self._sought(wanted, self._look)) if len(self._look.entries) else {}
        if len(found) < len(wanted):  # a search that led too far, or nothing to search by
            found = dict(self._counted(wanted))
        lost = [index for index in wanted if index not in found]
        if lost:
            raise DataError(f"{self.path}: frame {lost[0]} of {len(self)} cannot be decoded; the file is damaged")
        return np.stack([found[index] for index in indices])

    def _sought(self, wanted: list[int], known: Look) -> Iterator[tuple[int, Array]]:
        """Index and picture of the wanted frames; a new seek wherever a later key frame stands before the next one."""
        stream: Iterator[Any] = iter(())
        position: int | None = None
        for index in wanted:
            target = known.stamps[index]
            place = int(np.searchsorted(known.entries, target, "right")) - 1
            key = None if place < 0 else int(known.entries[place])
            if position is None or (key is not None and key > position):
                self._reopen() if key is None else self._container.seek(key, stream=self._stream)
                stream = _pictures(self._container, self._stream, self._av)
            for frame in stream:
                position = frame.pts
                if position == target:
                    yield index, upright(frame)
                if position is not None and position >= target:
                    break

    def _counted(self, wanted: list[int]) -> Iterator[tuple[int, Array]]:
        """The same from the start of the file on, by time stamps where they are known and else by counting."""
        places = {int(stamp): number for number, stamp in enumerate(self._look.stamps)}
        self._reopen()
        chosen = set(wanted)
        for count, frame in enumerate(_pictures(self._container, self._stream, self._av)):
            number = places.get(frame.pts, -1) if places else count
            if number in chosen:
                yield number, upright(frame)
            if number >= wanted[-1]:
                return

    def _reopen(self) -> None:
        """Stand at the start: a search for time 0 may lead behind the first key frame."""
        if self._container is not None:
            self._container.close()
        self._container = self._av.open(self.path)
        self._stream = video_stream(self._container)
        self._stream.codec_context.thread_count = 1


@lru_cache(CACHE)
def _decoded(path: str, size: int, changed: int) -> tuple[int, float]:
    """The number of frames that decoding gives, and their rate; remembered by path, size and time of change."""
    av = load("av", "pyav")
    with av.open(path) as container:
        stream = video_stream(container)
        stream.codec_context.thread_count = 1
        stamps = [frame.pts for frame in _pictures(container, stream, av)]
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        known = np.array([] if None in stamps else stamps, np.int64)
        return len(stamps), frame_rate(known, float(stream.time_base), rate)


def _pictures(container: Any, stream: Any, av: Any) -> Iterator[Any]:
    """The decoded frames from where the container stands; packets that cannot be decoded give none, as in a player."""
    for packet in container.demux(stream):
        with contextlib.suppress(av.error.InvalidDataError):
            yield from packet.decode()


def upright(frame: Any) -> Array:
    """The picture of a frame, uint8 (H, W, 3), turned by its display matrix (to the next quarter turn) as players do.

    A pixel at (x, y) is shown at (a x + c y, b x + d y) of the matrix' first entries a, b and fourth and fifth c, d.
    """
    picture = frame.to_ndarray(format="rgb24")
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return picture
    a, b, _, c, d = struct.unpack("5i", bytes(found)[:20])
    if abs(b) > abs(a):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
