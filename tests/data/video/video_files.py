"""Small videos in which every frame shows its own number, in the codecs that PyAV can write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np

Array = np.ndarray

CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "h264.mp4": ("libx264", {"bf": "3", "g": "250", "crf": "12"}),
    "h264_gops.mkv": ("libx264", {"bf": "3", "g": "12", "crf": "12"}),
    "vp9.webm": ("libvpx-vp9", {"crf": "10", "b:v": "0", "cpu-used": "6"}),
    "mpeg4_b.mp4": ("mpeg4", {"bf": "2", "g": "12", "qmax": "2"}),
    "mpeg4_b.avi": ("mpeg4", {"bf": "2", "g": "12", "qmax": "2"}),
    "mpeg2_b.mkv": ("mpeg2video", {"bf": "2", "g": "12", "qmax": "2"}),
    "mpeg2.mpg": ("mpeg2video", {"bf": "2", "g": "12", "qmax": "2"}),
}


def numbered_frames(count: int, height: int = 48, width: int = 64) -> Array:
    """uint8 (N, H, W, 3): seven blocks are the bits of the frame's number, white for 1; the top left corner is white."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, :8, :16] = 255
    for number in range(count):
        for bit in range(7):
            frames[number, 16:32, 4 + 8 * bit : 12 + 8 * bit] = 255 * (number >> bit & 1)
    return frames


def read_numbers(frames: Array) -> list[int]:
    """The numbers that decoded frames show; -1 where the picture does not stand upright."""
    bits = [frames[:, 20:28, 6 + 8 * bit : 10 + 8 * bit].mean((1, 2, 3)) > 127 for bit in range(7)]
    numbers = sum(bits[bit].astype(int) << bit for bit in range(7))
    corner = frames[:, 1:6, 2:12].mean((1, 2, 3)) > 127
    others = [frames[:, 1:6, 50:60], frames[:, 40:46, 2:12], frames[:, 40:46, 50:60]]
    upright = corner & np.all([part.mean((1, 2, 3)) < 127 for part in others], axis=0)
    return [int(n) for n in np.where(upright, numbers, -1)]


def write_video(path: Path, frames: Array, codec: str = "libx264", options: Mapping[str, str] | None = None) -> Path:
    """Encode frames at 25 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=dict(options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        for _ in range(10):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
