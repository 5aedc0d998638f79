"""Colours of pictures of labels: a palette for classes and a scale for numbers."""

from __future__ import annotations

import numpy as np

#: dark blue over green to yellow: brighter is more, also in print without colour
SCALE = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=float)


def palette(count: int) -> np.ndarray:
    """(count, 3) uint8: class 0 dark gray, the others hues a golden angle apart, so that neighbours differ."""
    colours = np.empty((count, 3))
    colours[:1] = 60
    for number in range(1, count):
        hue = (number * 0.618034) % 1.0
        value = (1.0, 0.8, 0.6)[number % 3]
        colours[number] = 255 * value * (0.3 + 0.7 * _hue(hue))
    return np.round(colours).astype(np.uint8)


def _hue(hue: float) -> np.ndarray:
    return np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(H, W) numbers -> uint8 (H, W, 3), `low` and less darkest, `high` and more brightest."""
    position = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    knots = np.linspace(0, 1, len(SCALE))
    channels = [np.interp(position, knots, SCALE[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def blacken(picture: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Black where `keep` (H, W) is False."""
    return np.where(keep[..., None], picture, 0).astype(np.uint8)
