"""Fractal images from a formula: iterated function systems, one system per category.

Source: Kataoka et al., "Pre-training without Natural Images", ACCV 2020 (FractalDB): a category is a set of random
affine maps, accepted when its attractor fills enough of the image; an instance scales single parameters of the maps.
"""

from __future__ import annotations

import numpy as np

from mtpeft.data.palette import backdrop, colours, compose, halve, to_uint8

POINTS = 600
STEPS = 40
BURN_IN = 12
FILLING_RATE = 0.2

Array = np.ndarray


def random_system(rng: np.random.Generator) -> Array:
    """(K, 2, 3) contracting affine maps, 2 <= K <= 6; singular values are below 1 so that the attractor is bounded."""
    count = int(rng.integers(2, 7))
    angles = rng.uniform(-np.pi, np.pi, (2, count))
    stretch = rng.uniform(0.25, 0.85, (count, 2)) * rng.choice([-1.0, 1.0], (count, 2))
    left, right = (_rotations(a) for a in angles)
    linear = left @ (stretch[:, :, None] * right)
    return np.concatenate([linear, rng.uniform(-1, 1, (count, 2, 1))], axis=2)


def attractor(system: Array, rng: np.random.Generator, points: int = POINTS, steps: int = STEPS) -> Array:
    """(points * steps, 2) points of the attractor: the chaos game with `points` walkers at once.

    A map is chosen with a probability proportional to the absolute value of its determinant (FractalDB, equation 2).
    """
    determinant = np.abs(np.linalg.det(system[:, :, :2])) + 1e-3
    choice = rng.choice(len(system), size=(BURN_IN + steps, points), p=determinant / determinant.sum())
    position = np.zeros((points, 2))
    visited = np.empty((steps, points, 2))
    for step in range(BURN_IN + steps):
        maps = system[choice[step]]
        position = (maps[:, :, :2] @ position[:, :, None])[:, :, 0] + maps[:, :, 2]
        if step >= BURN_IN:
            visited[step - BURN_IN] = position
    return visited.reshape(-1, 2)


def density(points: Array, size: int) -> Array:
    """(size, size) visits per pixel, the bounding box of the middle 99 % of the points filling the image."""
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    scaled = (points - (low + high) / 2) / max((high - low).max(), 1e-9) * 0.92 + 0.5
    cell = (scaled * size).astype(int)
    inside = ((cell >= 0) & (cell < size)).all(axis=1)
    flat = cell[inside, 1] * size + cell[inside, 0]
    return np.bincount(flat, minlength=size * size).reshape(size, size).astype(float)


def ifs_category(rng: np.random.Generator, instances: int, size: int) -> Array:
    """(instances, size, size, 3) uint8: one category, drawn at twice the size with random gray levels and colours."""
    system = random_system(rng)
    while (density(attractor(system, rng), size) > 0).mean() < FILLING_RATE:
        system = random_system(rng)
    images = [_draw(_varied(system, rng), rng, size) for _ in range(instances)]
    return np.stack(images)


def _varied(system: Array, rng: np.random.Generator) -> Array:
    """One map's coefficient scaled by 0.8 to 1.2 (FractalDB's instances), for two of the coefficients."""
    varied = system.copy()
    for _ in range(2):
        index = tuple(int(rng.integers(n)) for n in system.shape)
        varied[index] *= rng.uniform(0.8, 1.2)
    return varied


def _draw(system: Array, rng: np.random.Generator, size: int) -> Array:
    visits = density(attractor(system, rng), 2 * size)
    cover = np.minimum(visits, 1.0) if rng.random() < 0.4 else np.log1p(visits) / np.log1p(max(visits.max(), 1.0))
    foreground, background = colours(rng)
    image = compose(halve(cover) ** rng.uniform(0.5, 1.0), foreground, backdrop(rng, background, size))
    return to_uint8(np.rot90(image, int(rng.integers(4))) if rng.random() < 0.3 else image)


def _rotations(angles: Array) -> Array:
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)
