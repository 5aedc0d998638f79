"""The lights under which objects are drawn, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

ANY = "any"
"""The word that stands for all lights, or all backgrounds, one for each image."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Light:
    """From where it shines, in degrees as the camera sees it, and how; of each span every image draws a value.

    `beside` is the angle to the right or left of the camera, `above` that over the horizon.
    """

    beside: Span
    above: Span
    colour: tuple[float, float, float]
    ambient: Span
    diffuse: Span
    specular: Span = (0.0, 0.1)
    shadow: bool = False


LIGHTS: Mapping[str, Light] = MappingProxyType(
    {
        "day": Light((0, 180), (50, 85), (1.0, 1.0, 1.0), (0.6, 0.75), (0.5, 0.7)),
        "window": Light((70, 110), (5, 25), (0.9, 0.95, 1.0), (0.35, 0.45), (0.9, 1.2), shadow=True),
        "lamp": Light((0, 30), (30, 60), (1.0, 0.85, 0.6), (0.4, 0.5), (0.7, 1.0), (0.2, 0.4), shadow=True),
        "dusk": Light((100, 150), (5, 30), (1.0, 0.65, 0.5), (0.45, 0.6), (0.6, 0.9)),
        "night": Light((0, 180), (20, 70), (0.45, 0.55, 1.0), (0.35, 0.45), (0.4, 0.6)),
    }
)


def pick(names: tuple[str, ...], wanted: str, rng: np.random.Generator) -> str:
    """`wanted`, or where it is `ANY` one of `names`."""
    return names[int(rng.integers(len(names)))] if wanted == ANY else wanted
