"""More images from formulas: radial contours, assemblies of parts, textures and line drawings.

Each function draws one category: its random formula is fixed, the instances vary pose, proportions, gray levels,
colours and shading. Contours follow Kataoka et al., "Replacing Labeled Real-image Datasets with Auto-generated
Contours", CVPR 2022 (RCDB): nested outlines r(angle) given by a few harmonics. No category is a glyph or a garment.
All return uint8 (instances, size, size, 3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtpeft.data.palette import backdrop, colours, compose, halve, smooth_noise, to_uint8

Array = np.ndarray
Generator = np.random.Generator


def contour_category(rng: Generator, instances: int, size: int) -> Array:
    """A closed outline of random harmonics, filled, or as nested rings."""
    orders = rng.choice(np.arange(1, 10), size=int(rng.integers(2, 5)), replace=False)
    heights = rng.uniform(0.08, 0.32, len(orders)) / np.sqrt(orders)
    phases = rng.uniform(0, 2 * np.pi, len(orders))
    rings = int(rng.integers(1, 5))
    squeeze = rng.uniform(0.45, 1.0)

    def draw() -> Array:
        x, y = _plane(rng, 2 * size, turn=0.35)
        radius, angle = np.hypot(x / squeeze, y), np.arctan2(y, x / squeeze)
        wave = heights * rng.uniform(0.75, 1.25, len(orders))
        edge = 0.72 * (1 + sum(h * np.sin(k * angle + p) for h, k, p in zip(wave, orders, phases, strict=True)))
        foreground, background = colours(rng)
        image = backdrop(rng, background, 2 * size)
        for ring in range(rings):
            fill = foreground if ring % 2 == 0 else foreground + rng.uniform(0.3, 0.7) * (background - foreground)
            cover = _inside(edge * (1 - ring / (rings + 0.5)) - radius)
            image = compose(cover, fill * _shading(rng, x, y), image)
        return image

    return _instances(draw, instances)


def parts_category(rng: Generator, instances: int, size: int) -> Array:
    """A silhouette put together from two to five superellipses, each with its own gray level, one surface over all."""
    count = int(rng.integers(2, 6))
    centre = rng.uniform(-0.5, 0.5, (count, 2))
    centre[0] = 0
    extent = rng.uniform(0.12, 0.7, (count, 2))
    turn = rng.choice([0.0, 0.0, np.pi / 4, 1.0]) * rng.uniform(-1, 1, count)
    power = rng.choice([1.0, 2.0, 4.0, 8.0], count)
    level = rng.uniform(0.5, 1.0, count)
    mirrored = rng.random() < 0.5
    surface = _surface(rng)

    def draw() -> Array:
        x, y = _plane(rng, 2 * size, turn=0.2)
        foreground, background = colours(rng)
        image = backdrop(rng, background, 2 * size)
        fill = foreground * _shading(rng, x, y) * surface(x, y)
        place = centre + rng.normal(0, 0.04, centre.shape)
        span = extent * rng.uniform(0.85, 1.15, extent.shape)
        for part in range(count):
            for side in (1, -1) if mirrored else (1,):
                u, v = side * x - place[part, 0], y - place[part, 1]
                u, v = _turned(u, v, turn[part])
                shape = np.abs(u / span[part, 0]) ** power[part] + np.abs(v / span[part, 1]) ** power[part]
                value = (1 - shape ** (1 / power[part])) * span[part].min()
                image = compose(_inside(value), fill * level[part], image)
        return image

    return _instances(draw, instances)


def texture_category(rng: Generator, instances: int, size: int) -> Array:
    """A surface that fills the image: gratings, checks, weaves, dots or noise at fixed scales."""
    surface, second = _surface(rng, plain=False), _surface(rng)

    def draw() -> Array:
        x, y = _plane(rng, 2 * size, turn=0.3)
        foreground, background = colours(rng)
        cover = (surface(x, y) * second(x, y))[..., 0]
        cover = (cover - cover.min()) / max(np.ptp(cover), 1e-6)
        return compose(cover, foreground * _shading(rng, x, y), backdrop(rng, background, 2 * size))

    return _instances(draw, instances)


def strokes_category(rng: Generator, instances: int, size: int) -> Array:
    """A line drawing: three to six cubic curves whose control points move a little from instance to instance."""
    control = rng.uniform(-0.9, 0.9, (int(rng.integers(3, 7)), 4, 2))
    widths = rng.uniform(0.03, 0.11, len(control))
    t = np.linspace(0, 1, 24)[:, None]
    weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)

    def draw() -> Array:
        x, y = _plane(rng, 2 * size, turn=0.2)
        foreground, background = colours(rng)
        image = backdrop(rng, background, 2 * size)
        thickness = widths * rng.uniform(0.7, 1.4)
        curves = weights @ (control + rng.normal(0, 0.05, control.shape))
        for curve, width in zip(curves, thickness, strict=True):
            distance = np.hypot(x[..., None] - curve[:, 0], y[..., None] - curve[:, 1]).min(axis=-1)
            image = compose(_inside(width - distance), foreground, image)
        return image

    return _instances(draw, instances)


def _instances(draw: Callable[[], Array], count: int) -> Array:
    """`count` drawings made at twice the size, averaged down to the size."""
    return np.stack([to_uint8(halve(draw())) for _ in range(count)])


def _plane(rng: Generator, size: int, turn: float) -> tuple[Array, Array]:
    """Coordinates of the pixels in about [-1, 1] after a random small turn (radians), scale and shift."""
    y, x = np.mgrid[0:size, 0:size] / (size - 1) * 2 - 1
    x, y = _turned(x, y, rng.normal(0, turn))
    scale = rng.uniform(0.85, 1.25, 2)
    shift = rng.uniform(-0.12, 0.12, 2)
    return x * scale[0] + shift[0], y * scale[1] + shift[1]


def _turned(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def _inside(distance: Array) -> Array:
    """Cover in [0, 1] from a signed distance in image halves, soft over about one drawn pixel."""
    return np.clip(distance / 0.04 + 0.5, 0, 1)


def _shading(rng: Generator, x: Array, y: Array) -> Array:
    """(H, W, 1) brightness: flat, a ramp across the image, a bulge, or soft blotches."""
    kind = int(rng.integers(4))
    if kind == 0:
        return np.ones((*x.shape, 1))
    if kind == 1:
        direction = rng.normal(size=2)
        ramp = (direction[0] * x + direction[1] * y) / np.linalg.norm(direction)
        return np.clip(0.75 + 0.3 * ramp, 0.2, 1)[..., None]
    if kind == 2:
        return np.clip(1.1 - rng.uniform(0.4, 0.9) * np.hypot(x, y), 0.2, 1)[..., None]
    return (0.6 + 0.4 * smooth_noise(rng, len(x), int(rng.integers(2, 6))))[..., None]


def _surface(rng: Generator, plain: bool = True) -> Callable[[Array, Array], Array]:
    """A fixed pattern of (x, y) with values in [0.3, 1] as (H, W, 1), or plain 1 half of the time when allowed."""
    kind = "plain" if plain and rng.random() < 0.5 else rng.choice(["stripes", "checks", "dots", "weave", "waves"])
    frequency = rng.uniform(4, 22)
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    hardness = rng.uniform(1, 6)
    ratio = rng.uniform(0.4, 1.6)

    def pattern(x: Array, y: Array) -> Array:
        u, v = _turned(x, y, angle)
        first, other = np.sin(frequency * u), np.sin(frequency * ratio * v)
        wave = {
            "plain": lambda: np.full(x.shape, 10.0),
            "stripes": lambda: first,
            "checks": lambda: first * other * 2,
            "dots": lambda: first + other - 0.7,
            "weave": lambda: np.maximum(first, other),
            "waves": lambda: np.sin(frequency * u + 2 * other),
        }[str(kind)]()
        return np.asarray(0.3 + 0.7 / (1 + np.exp(-hardness * wave)))

    def surface(x: Array, y: Array) -> Array:
        return pattern(x, y)[..., None]

    return surface
