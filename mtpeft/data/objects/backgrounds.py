"""What is behind the objects, by name. Every image draws its own colours and proportions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from mtpeft.data.palette import smooth_noise

Array = np.ndarray
Mix = Callable[[np.random.Generator, int], Array]

LEVELS = (0.1, 0.9)
"""Brightness of a background, 0 to 1."""
CONTRAST = 0.3
"""Least difference between that and the mean brightness of the object."""
STEP, TINT = 0.1, 0.15
"""How far the brightness of its two colours is from that at both sides, and either red, green and blue at most."""


def draw_background(name: str, rng: np.random.Generator, size: int, brightness: float) -> Array:
    """(size, size, 3) in [0, 1]: two colours that stand out from an object of this brightness, mixed as `name` says."""
    mix = BACKGROUNDS[name](rng, size)[..., None]
    level = _level(rng, brightness)
    first, second = (np.clip(level + part + rng.uniform(-TINT, TINT, 3), 0, 1) for part in (STEP, -STEP))
    return np.asarray(first * mix + second * (1 - mix))


def _level(rng: np.random.Generator, brightness: float) -> float:
    """Drawn from `LEVELS`, as far from the object as `CONTRAST`."""
    while True:
        level = rng.uniform(*LEVELS)
        if abs(level - brightness) >= CONTRAST:
            return float(level)


def _plain(rng: np.random.Generator, size: int) -> Array:
    return np.ones((size, size))


def _clouds(rng: np.random.Generator, size: int) -> Array:
    return smooth_noise(rng, size, int(rng.integers(2, 6)))


def _stripes(rng: np.random.Generator, size: int) -> Array:
    along, _ = _turned(rng, size)
    return _edges(along * rng.uniform(2, 5))


def _checks(rng: np.random.Generator, size: int) -> Array:
    along, across = _turned(rng, size)
    waves = rng.uniform(1.5, 4)
    one, other = _edges(along * waves), _edges(across * waves)
    return np.asarray(one * other + (1 - one) * (1 - other))


def _boxes(rng: np.random.Generator, size: int) -> Array:
    """Rectangles one over the other."""
    mix = np.zeros((size, size))
    for _ in range(int(rng.integers(4, 9))):
        top, left = rng.integers(0, size, 2)
        height, width = (rng.uniform(0.15, 0.6, 2) * size).astype(int)
        mix[top : top + height, left : left + width] = rng.random()
    return mix


def _turned(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Two coordinates at right angles, turned and moved at random, that run over about 1 from edge to edge."""
    rows, columns = np.mgrid[:size, :size] / size
    angle, start = rng.uniform(0, np.pi), rng.random(2)
    along = np.cos(angle) * columns + np.sin(angle) * rows + start[0]
    across = np.cos(angle) * rows - np.sin(angle) * columns + start[1]
    return np.asarray(along), np.asarray(across)


def _edges(waves: Array) -> Array:
    """0 and 1 in turn, one period for each 1 of `waves`, with soft edges."""
    return np.asarray(np.clip(0.5 + 2 * np.sin(2 * np.pi * waves), 0, 1))


BACKGROUNDS: Mapping[str, Mix] = MappingProxyType(
    {"plain": _plain, "clouds": _clouds, "stripes": _stripes, "checks": _checks, "boxes": _boxes}
)
