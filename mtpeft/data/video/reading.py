"""What all decoders share: the interface with its checks, and one-line errors that name the file."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from mtpeft.errors import ConfigError, DataError

Array = np.ndarray

_PACKAGES = {"decord": ("decord", "decord2"), "pyav": ("av",), "torchcodec": ("torchcodec",)}


class Decoder(ABC):
    """An open video file. `frames` counts from 0, in the order of presentation, the frames that a player shows."""

    fps: float
    reader: str
    """What reads the file: package and version, and why where it is not the decoder asked for."""
    path: str
    errors: tuple[type[Exception], ...]
    """What the package raises for frames that cannot be decoded."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the upright picture; decodes the first frame, which says how it is turned."""
        height, width = self.frames([0]).shape[1:3]
        return height, width

    @abstractmethod
    def __len__(self) -> int:
        """The number of frames."""

    def frames(self, indices: Sequence[int]) -> Array:
        """The frames at `indices` (any order, repeats allowed): uint8 (T, H, W, 3), RGB, upright. Raises `DataError`."""
        plain = [int(index) for index in indices]
        for index in plain:
            if not 0 <= index < len(self):
                raise DataError(f"{self.path}: frame {index} was asked for, but the video has {len(self)}")
        try:
            return self._frames(plain)
        except self.errors as error:
            text = f"frames {min(plain)} to {max(plain)} cannot be decoded: {_line(error)}"
            raise DataError(f"{self.path}: {text}") from error

    @abstractmethod
    def _frames(self, indices: list[int]) -> Array:
        """`frames` of indices that exist; raises one of `errors`."""


@cache
def package_version(decoder: str) -> str:
    """Package and version of a decoder, such as "decord 0.6.0". Raises `ConfigError` when it is not installed."""
    for package in _PACKAGES.get(decoder, (decoder,)):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    raise absent(decoder)


def load(module: str, decoder: str) -> Any:
    """Import a decoder's module. Raises `ConfigError` where that fails."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # torchcodec raises the last two for a missing FFmpeg
        raise absent(decoder, str(error)) from error


def absent(decoder: str, reason: str = "") -> ConfigError:
    """The error for a decoder that is not installed."""
    packages = {"decord": "mtpeft[video]", "pyav": "av", "torchcodec": "torchcodec"}
    detail = f" ({_line(reason)[:160]})" if reason else ""
    return ConfigError(
        f"the video decoder {decoder!r} cannot be loaded{detail}; install it with "
        f"`pip install {packages.get(decoder, decoder)}` or choose another by data.decoder"
    )


def unreadable(path: str, error: Exception) -> DataError:
    """The error for a file that cannot be opened."""
    return DataError(f"{path}: the video cannot be read, or has no video stream: {_line(error)}")


def _line(error: object) -> str:
    """The first two lines of a message as one; libraries put a stack trace behind it."""
    return " ".join(" ".join(str(error).splitlines()[:2]).split())[:300]
