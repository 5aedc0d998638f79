"""Clips of `motion` as frames and as video files in several codecs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from mtpeft.data.video.motion.classes import GROUPS, MOTION_CLASSES, Draw, draw
from mtpeft.data.video.motion.sources import source_frames

Array = np.ndarray

#: x264's look-ahead runs in a thread of its own and then decides by what it has seen so far: off, for the same bytes
STEADY = "threads=1:sync-lookahead=0:rc-lookahead=0"
CODECS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("mp4", "libx264", {"crf": "16", "bf": "2", "preset": "fast", "x264-params": STEADY}),
    ("mkv", "libx264", {"crf": "16", "bf": "2", "g": "8", "preset": "fast", "x264-params": STEADY}),
    ("mp4", "mpeg4", {"qmin": "2", "qmax": "3", "bf": "2"}),
    ("mkv", "libvpx-vp9", {"crf": "16", "b:v": "0", "deadline": "realtime", "cpu-used": "6"}),
    ("mkv", "mpeg2video", {"qmin": "2", "qmax": "3"}),
)
"""Container, encoder and its options: a clip's codec is drawn for its group, so it says nothing about the class."""

RATE = 12


def clip_name(drawn: Draw, split: str, label: str, index: int) -> str:
    """The path of a clip below the data set's folder."""
    return f"{split}/{label}/{index:04d}.{CODECS[drawn.codec % len(CODECS)][0]}"


def clip_frames(seed: int, split: str, label: str, index: int, length: int, size: int) -> tuple[Array, Draw]:
    """The frames of a clip before encoding, uint8 (T, S, S, 3), and the draw they come from."""
    chosen = MOTION_CLASSES[label]
    drawn = draw(seed, split, chosen.group, index, length)
    classes = list(MOTION_CLASSES)
    rng = np.random.default_rng([seed, ("train", "test").index(split), len(GROUPS) + classes.index(label), index])
    film = source_frames(drawn.shot.file)
    frames = [
        np.asarray(
            Image.fromarray(film[time]).resize(
                (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
            )
        )
        for time, (top, left, side) in zip(drawn.times.tolist(), drawn.windows.tolist(), strict=True)
    ]
    return np.stack(frames)[chosen.order(length, rng)], drawn


def encode(frames: Array, codec: int) -> bytes:
    """A video file of the frames (T, H, W, 3); one thread, so that the same PyAV gives the same bytes."""
    import av

    container_format, encoder, options = CODECS[codec % len(CODECS)]
    buffer = io.BytesIO()
    names = {"mp4": "mp4", "mkv": "matroska"}
    flags: dict[str, Any] = {"fflags": "+bitexact"}
    with av.open(buffer, "w", format=names[container_format], options=flags) as container:
        stream: Any = container.add_stream(encoder, rate=RATE, options=dict(options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
