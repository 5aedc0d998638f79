"""The classes of `motion`, each an order in which the frames of its group are shown.

The classes of a group show the same frames, each as often, in another order: no single frame, and no average of the
frames, tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mtpeft.data.video.motion.sources import HEIGHT, SHOTS, Shot, source_frames

Array = np.ndarray
Order = Callable[[int, np.random.Generator], Array]


@dataclass(frozen=True)
class MotionClass:
    """`group` names the frames, `order` gives their places for a clip of T frames, with repeats."""

    group: str
    order: Order


def _swing(length: int, rng: np.random.Generator) -> Array:
    return np.concatenate([np.arange(0, length, 2), np.arange(1, length, 2)[::-1]])


MOTION_CLASSES = {
    "pan_left": MotionClass("pan", lambda length, rng: np.arange(length)[::-1]),
    "pan_right": MotionClass("pan", lambda length, rng: np.arange(length)),
    "zoom_in": MotionClass("zoom", lambda length, rng: np.arange(length)),
    "zoom_out": MotionClass("zoom", lambda length, rng: np.arange(length)[::-1]),
    "forward": MotionClass("play", lambda length, rng: np.arange(length)),
    "reverse": MotionClass("play", lambda length, rng: np.arange(length)[::-1]),
    "swing": MotionClass("play", _swing),
    "shuffle": MotionClass("play", lambda length, rng: rng.permutation(length)),
    "slow": MotionClass("rate", lambda length, rng: np.repeat(np.arange(0, length, 2), 2)),
    "fast": MotionClass("rate", lambda length, rng: np.tile(np.arange(0, length, 2), 2)),
    "tilt_up": MotionClass("tilt", lambda length, rng: np.arange(length)[::-1]),
    "tilt_down": MotionClass("tilt", lambda length, rng: np.arange(length)),
}
"""pan: the window moves to the left or right; tilt: up or down. zoom: things grow or shrink. forward, reverse: the film as it
was taken, or backwards; swing: there (every other frame) and back; shuffle: no order. slow: every other frame, each shown
twice; fast: the same at twice that pace, twice. Films under pan, tilt and zoom run forwards or backwards at random.
"""

GROUPS = ("pan", "zoom", "play", "rate", "tilt")
PAIRS = (
    ("pan_left", "pan_right"),
    ("zoom_in", "zoom_out"),
    ("forward", "reverse"),
    ("swing", "shuffle"),
    ("slow", "fast"),
    ("tilt_up", "tilt_down"),
)


@dataclass(frozen=True)
class Draw:
    """What the classes of a group share: a shot, its frames, a window (top, left, side in pixels) for each, a codec."""

    shot: Shot
    times: Array
    windows: Array
    codec: int


def draw(seed: int, split: str, group: str, index: int, length: int) -> Draw:
    """Draw number `index` of a group: a function of its arguments alone. `split` is "train" or "test"."""
    rng = np.random.default_rng([seed, ("train", "test").index(split), GROUPS.index(group), index])
    shot = SHOTS[rng.integers(len(SHOTS))]
    first, last = getattr(shot, split)
    stride = int(rng.integers(1, min(3, max(1, (last - first - 1) // (length - 1))) + 1))
    span = min((length - 1) * stride, last - first - 1)
    start = first + int(rng.integers(last - first - span))
    times = np.minimum(start + np.arange(length) * stride, last - 1)
    if group in ("pan", "tilt", "zoom") and rng.random() < 0.5:
        times = times[::-1]
    width = source_frames(shot.file).shape[2]
    return Draw(shot, times, _windows(group, length, width, rng), int(rng.integers(1 << 16)))


def _windows(group: str, length: int, width: int, rng: np.random.Generator) -> Array:
    """(T, 3): top, left and side; pan and tilt go right or down by 0.4 to 0.9 sides, a zoom goes in by a factor 1.4 to 2."""
    progress = np.linspace(0, 1, length)
    if group in ("pan", "tilt"):
        side = rng.uniform(72, 90)
        along, across = (width, HEIGHT) if group == "pan" else (HEIGHT, width)
        way = min(rng.uniform(0.4, 0.9) * side, along - side)
        fixed, start = rng.uniform(0, across - side), rng.uniform(0, along - side - way)
        places = [np.full(length, fixed), start + way * progress]
        return np.stack([*(places if group == "pan" else places[::-1]), np.full(length, side)], axis=1)
    largest = rng.uniform(110, HEIGHT) if group == "zoom" else rng.uniform(80, 130)
    sides = largest / rng.uniform(1.4, 2.0) ** progress if group == "zoom" else np.full(length, largest)
    top, left = rng.uniform(0, HEIGHT - largest), rng.uniform(0, width - largest)
    return np.stack([top + (largest - sides) / 2, left + (largest - sides) / 2, sides], axis=1)
