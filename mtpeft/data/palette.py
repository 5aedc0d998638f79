"""Gray levels, colours and backgrounds shared by the generated images. Images are float (H, W, 3) in [0, 1]."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def colours(rng: np.random.Generator) -> tuple[Array, Array]:
    """Foreground and background, each (3,), at least 0.3 apart in brightness; half of the backgrounds are nearly black.

    Two thirds of the foregrounds are gray, the rest coloured.
    """
    kind = rng.random()
    level = rng.uniform(0.0, 0.08) if kind < 0.5 else rng.uniform(0.75, 1.0) if kind < 0.75 else rng.uniform(0.1, 0.7)
    background = np.full(3, level) if rng.random() < 0.7 else np.clip(level + rng.uniform(-0.2, 0.2, 3), 0, 1)
    while True:
        foreground = np.full(3, rng.uniform(0.0, 1.0)) if rng.random() < 0.67 else rng.uniform(0.0, 1.0, 3)
        if abs(foreground.mean() - background.mean()) >= 0.3:
            return foreground, background


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """(size, size) noise in [0, 1]: random values on a `cells` x `cells` grid, interpolated bilinearly."""
    grid = rng.random((cells + 1, cells + 1))
    position = np.linspace(0, cells, size, endpoint=False)
    low = position.astype(int)
    part = position - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part)


def backdrop(rng: np.random.Generator, colour: Array, size: int) -> Array:
    """(size, size, 3): `colour`, sometimes with a brightness ramp or soft noise over it."""
    image = np.broadcast_to(colour, (size, size, 3)).copy()
    kind = rng.random()
    if kind < 0.15:
        image += (smooth_noise(rng, size, 1) - 0.5)[..., None] * 0.4
    elif kind < 0.3:
        image += (smooth_noise(rng, size, int(rng.integers(3, 9))) - 0.5)[..., None] * 0.35
    return np.clip(image, 0, 1)


def compose(cover: Array, colour: Array | float, behind: Array) -> Array:
    """Lay `colour` (a gray level, (3,) or (H, W, 3)) over `behind` (H, W, 3) where `cover` (H, W), 0 to 1, says so."""
    return behind + cover[..., None] * (colour - behind)


def halve(image: Array) -> Array:
    """Mean over 2 x 2 pixels of (H, W, ...): the anti-aliasing of everything drawn at twice the size."""
    height, width = image.shape[:2]
    return image.reshape(height // 2, 2, width // 2, 2, *image.shape[2:]).mean(axis=(1, 3))


def to_uint8(image: Array) -> Array:
    """[0, 1] floats to rounded uint8."""
    return np.asarray(np.round(np.clip(image, 0, 1) * 255), dtype=np.uint8)
