"""One interface over the libraries that decode video: decord (the default), PyAV and torchcodec.

Nothing here imports torch, so that the decoding process (`decoding`) starts at once.
"""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np

from mtpeft.data.video.containers import enters_at_key_frames
from mtpeft.errors import ConfigError, DataError
from mtpeft.registry import Registry

Array = np.ndarray


class Decoder(Protocol):
    """An open video file. `frames` counts from 0 in the order of presentation."""

    fps: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def __len__(self) -> int:
        """The number of frames."""
        ...

    def frames(self, indices: Sequence[int]) -> Array:
        """The frames at `indices` (any order, repeats allowed): uint8 (T, H, W, 3), RGB. Raises `DataError`."""
        ...


DECODERS: Registry[Callable[[str], Decoder]] = Registry("video decoder")

_PACKAGES = {"decord": ("decord", "decord2"), "pyav": ("av",), "torchcodec": ("torchcodec",)}


def open_video(path: str | os.PathLike[str], decoder: str = "decord") -> Decoder:
    """Open a file with the decoder of that name: "decord", "pyav" or "torchcodec"; each uses one thread.

    Raises `DataError`, which names the file, when it is missing, empty, damaged, or has no picture in it;
    `ConfigError` for a decoder that is unknown or not installed.
    """
    factory = DECODERS.get(decoder, "key data.decoder")
    path = os.fspath(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: the video cannot be opened: {error.strerror}") from error
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise DataError(f"{path}: the video file is empty (0 bytes)")
    video = factory(path)
    if not len(video):
        raise DataError(f"{path}: the video has no frame")
    return video


def decoder_version(decoder: str) -> str:
    """Package and version of a decoder, such as "decord 0.6.0". Decoders pick frames differently: runs record it.

    Raises `UnknownNameError` for the decoder, `ConfigError` when no package that has it is installed.
    """
    DECODERS.get(decoder, "key data.decoder")
    for package in _PACKAGES.get(decoder, (decoder,)):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    raise _absent(decoder)


class DecordVideo:
    """decord's `VideoReader`. Opened per clip in the process that reads it: a reader does not survive a fork.

    Where seeking would give wrong frames (`enters_at_key_frames`), frames are read in order from the start.
    """

    def __init__(self, path: str) -> None:
        self._decord = _load("decord", "decord")
        self._decord.logging.set_level(self._decord.logging.QUIET)
        self._path = path
        self._errors = (self._decord.DECORDError, RuntimeError, IndexError, OSError)
        try:
            self._seekable = enters_at_key_frames(path)
            self._reader = self._open()
            self._count = len(self._reader)
            self.fps = float(self._reader.get_avg_fps())
        except self._errors as error:
            raise _unreadable(path, error) from error
        self._position = 0

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> tuple[int, int]:
        """Height and width; decodes the first frame, as decord says them with a frame only."""
        height, width = self.frames([0]).shape[1:3]
        return height, width

    def frames(self, indices: Sequence[int]) -> Array:
        """uint8 (T, H, W, 3)."""
        checked = _checked(self._path, indices, len(self))
        try:
            frames = self._reader.get_batch(checked).asnumpy() if self._seekable else self._in_order(checked)
        except self._errors as error:
            if "size must exactly match" in str(error):
                raise self._narrow() from error
            raise _undecodable(self._path, checked, error) from error
        if frames.shape[-1] != 3:
            raise self._narrow()
        return np.asarray(frames)

    def _narrow(self) -> DataError:
        """decord takes the padding of short rows for more colours, or for another size."""
        return DataError(f"{self._path}: decord cannot decode a video this narrow; use data.decoder='pyav'")

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
        return self._decord.VideoReader(self._path, ctx=self._decord.cpu(0), num_threads=1)


class PyAVVideo:
    """PyAV: seeks to the key frame before a wanted frame and decodes forward, frames told by their time stamps.

    Other containers than MP4 and Matroska, whose time stamps cannot be trusted (AVI, MPEG), are decoded from the start.
    """

    def __init__(self, path: str) -> None:
        av = _load("av", "pyav")
        self._path = path
        self._errors = (av.error.FFmpegError, OSError, ValueError)
        try:
            self._container = av.open(path)
            if not self._container.streams.video:
                raise DataError(f"{path}: the file has no video stream")
            self._stream = self._container.streams.video[0]
            self._stream.codec_context.thread_count = 1
            packets = [p for p in self._container.demux(self._stream) if p.size and not p.is_discard]
        except self._errors as error:
            raise _unreadable(path, error) from error
        stamps = [packet.pts for packet in packets]
        formats = set(self._container.format.name.split(","))
        unique = bool(stamps) and None not in stamps and len(set(stamps)) == len(stamps)
        self._seekable = unique and not formats.isdisjoint({"mp4", "matroska"})
        self._stamps: list[int] = sorted(stamps) if self._seekable else []
        self._keys = sorted(p.pts for p in packets if p.is_keyframe and p.pts is not None)
        try:
            self._count = len(self._stamps) if self._seekable else sum(1 for _ in self._decode(None))
        except self._errors as error:
            raise _unreadable(path, error) from error
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or 0)

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._stream.codec_context.height, self._stream.codec_context.width

    def frames(self, indices: Sequence[int]) -> Array:
        """uint8 (T, H, W, 3)."""
        checked = _checked(self._path, indices, len(self))
        wanted = sorted(set(checked))
        try:
            found = dict(self._sought(wanted) if self._seekable else self._counted(wanted))
        except self._errors as error:
            raise _undecodable(self._path, checked, error) from error
        lost = [index for index in wanted if index not in found]
        if lost:
            raise DataError(f"{self._path}: frame {lost[0]} of {len(self)} cannot be decoded; the file is damaged")
        return np.stack([found[index] for index in checked])

    def _sought(self, wanted: list[int]) -> Iterator[tuple[int, Array]]:
        """Index and picture of the wanted frames; a new seek wherever a later key frame stands before the next one."""
        stream: Iterator[Any] = iter(())
        position: int | None = None
        for index in wanted:
            target = self._stamps[index]
            key = max((k for k in self._keys if k <= target), default=None)
            if position is None or (key is not None and key > position):
                stream = self._decode(key if key is not None else self._stamps[0])
            for frame in stream:
                position = frame.pts
                if position == target:
                    yield index, frame.to_ndarray(format="rgb24")
                if position is not None and position >= target:
                    break

    def _counted(self, wanted: list[int]) -> Iterator[tuple[int, Array]]:
        for number, frame in enumerate(self._decode(None)):
            if number in wanted:
                yield number, frame.to_ndarray(format="rgb24")
            if number >= wanted[-1]:
                return

    def _decode(self, stamp: int | None) -> Iterator[Any]:
        """Decoded frames from the key frame at or before `stamp` on; None: from the start."""
        self._container.seek(0 if stamp is None else stamp, stream=None if stamp is None else self._stream)
        yield from self._container.decode(self._stream)


class TorchcodecVideo:
    """torchcodec's `VideoDecoder`, which needs a matching torch and FFmpeg's libraries on the machine."""

    def __init__(self, path: str) -> None:
        decoders = _load("torchcodec.decoders", "torchcodec")
        self._path = path
        try:
            self._decoder = decoders.VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            raise _unreadable(path, error) from error
        self.fps = float(self._decoder.metadata.average_fps or 0)

    def __len__(self) -> int:
        return len(self._decoder)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._decoder.metadata.height, self._decoder.metadata.width

    def frames(self, indices: Sequence[int]) -> Array:
        """uint8 (T, H, W, 3)."""
        checked = _checked(self._path, indices, len(self))
        try:
            return np.asarray(self._decoder.get_frames_at(indices=checked).data)
        except (RuntimeError, IndexError) as error:
            raise _undecodable(self._path, checked, error) from error


DECODERS.add("decord", DecordVideo)
DECODERS.add("pyav", PyAVVideo)
DECODERS.add("torchcodec", TorchcodecVideo)


def _load(module: str, decoder: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # torchcodec raises the last two for a missing FFmpeg
        raise _absent(decoder, str(error)) from error


def _absent(decoder: str, reason: str = "") -> ConfigError:
    packages = {"decord": "mtpeft[video]", "pyav": "av", "torchcodec": "torchcodec"}
    detail = f" ({_line(reason)[:160]})" if reason else ""
    return ConfigError(
        f"the video decoder {decoder!r} cannot be loaded{detail}; install it with "
        f"`pip install {packages.get(decoder, decoder)}` or choose another by data.decoder"
    )


def _checked(path: str, indices: Sequence[int], count: int) -> list[int]:
    checked = [int(index) for index in indices]
    for index in checked:
        if not 0 <= index < count:
            raise DataError(f"{path}: frame {index} was asked for, but the video has {count}")
    return checked


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(f"{path}: the video cannot be read, or has no video stream: {_line(error)}")


def _undecodable(path: str, indices: Sequence[int], error: Exception) -> DataError:
    return DataError(f"{path}: frames {min(indices)} to {max(indices)} cannot be decoded: {_line(error)}")


def _line(error: object) -> str:
    """The first two lines of a message as one; libraries put a stack trace behind it."""
    return " ".join(" ".join(str(error).splitlines()[:2]).split())[:300]
