"""Which objects scenes are made of, and which of them validation keeps for itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

CLASSES = ("background", "box", "sphere", "cylinder", "capsule", "object", "arm", "quadruped", "vehicle")
PARTS = (
    "none",
    "arm base",
    "upper arm",
    "forearm and hand",
    "trunk",
    "upper leg",
    "lower leg",
    "vehicle body",
    "wheel",
)
SHAPES = CLASSES[1:6]
FAMILIES = CLASSES[6:]
NUMBERS = {"train": range(300, 800), "val": range(800, 1000)}
"""Numbers of pybullet's random objects, and of our primitives: shape and number fix proportions, texture and colour."""
TEXTURES = {"train": range(0, 24), "val": range(24, 36)}
TEXTURE_SIZE = 64


@dataclass(frozen=True)
class Robot:
    """A robot model of pybullet_data.

    `scale` brings its size to about one metre. `parts` maps pieces
    of link names to classes of `PARTS`, the longest that fits counts; `pose` maps pieces of link names to
    the mean angle (radians) of the joint that moves the link.
    """

    urdf: str
    family: str
    scale: float
    parts: tuple[tuple[str, int], ...]
    pose: tuple[tuple[str, float], ...] = ()

    def part(self, link: str) -> int:
        """The class of a link."""
        fitting = [(len(key), value) for key, value in self.parts if key in link]
        return max(fitting)[1] if fitting else 0

    def angle(self, link: str) -> float:
        """The mean angle of the joint that moves `link`."""
        return next((value for key, value in self.pose if key in link), 0.0)


_LEGS = (("", 4), ("upper", 5), ("lower", 6), ("toe", 6), ("shoulder", 4))
_BENT = (("upper_shoulder", 0.0), ("upper", 0.8), ("lower", -1.5))
_WHEELS = (("", 7), ("wheel", 8))

ROBOTS = {
    "train": (
        Robot(
            "kuka_iiwa/model.urdf",
            "arm",
            0.8,
            (("_0", 1), ("_1", 1), ("_2", 2), ("_3", 2), ("_4", 3), ("_5", 3), ("_6", 3), ("_7", 3)),
        ),
        Robot(
            "xarm/xarm6_robot.urdf",
            "arm",
            1.4,
            (("base", 1), ("link1", 1), ("link2", 2), ("link3", 3), ("link4", 3), ("link5", 3), ("link6", 3)),
        ),
        Robot("laikago/laikago_toes_zup_lores.urdf", "quadruped", 1.2, _LEGS),
        Robot("aliengo/aliengo.urdf", "quadruped", 1.3, _LEGS, _BENT),
        Robot("quadruped/spirit40.urdf", "quadruped", 1.3, _LEGS, (("upper", 0.8), ("lower", 1.5))),
        Robot("racecar/racecar.urdf", "vehicle", 2.0, _WHEELS),
        Robot("r2d2.urdf", "vehicle", 0.9, _WHEELS),
    ),
    "val": (
        Robot(
            "franka_panda/panda.urdf",
            "arm",
            0.9,
            (
                ("link0", 1),
                ("link1", 1),
                ("link2", 2),
                ("link3", 2),
                ("link4", 3),
                ("link5", 3),
                ("link6", 3),
                ("link7", 3),
                ("hand", 3),
                ("finger", 3),
            ),
        ),
        Robot("a1/a1.urdf", "quadruped", 1.8, _LEGS, _BENT),
        Robot("husky/husky.urdf", "vehicle", 0.8, _WHEELS),
    ),
}


@dataclass(frozen=True)
class Primitive:
    """A box, sphere, cylinder or capsule: its size in metres (x, y, z when it stands), colour and texture."""

    size: tuple[float, float, float]
    colour: tuple[float, float, float]
    texture: int


def primitive(shape: str, number: int, split: str) -> Primitive:
    """Number `number` of a shape, the same in every scene."""
    rng = np.random.default_rng([SHAPES.index(shape), number])
    width, depth, height = rng.uniform(0.25, 0.6, 3)
    if shape != "box":
        depth = width
    if shape == "sphere":
        height = width
    if shape == "capsule":
        height = width * rng.uniform(1.6, 2.2)  # a capsule no longer than it is wide would be a sphere
    if shape == "cylinder":
        height = width * rng.uniform(0.7, 1.6)
    shrink = min(1.0, 0.7 / max(width, depth, height))
    colour = rng.uniform(0.15, 1.0, 3)
    return Primitive(
        (float(width * shrink), float(depth * shrink), float(height * shrink)),
        (float(colour[0]), float(colour[1]), float(colour[2])),
        int(rng.choice(TEXTURES[split])),
    )


def texture(number: int) -> Array:
    """uint8 (64, 64, 3): stripes, a chequerboard, spots, noise or plain, bright so that a colour can tint it."""
    rng = np.random.default_rng([len(SHAPES), number])
    y, x = np.mgrid[:TEXTURE_SIZE, :TEXTURE_SIZE] / TEXTURE_SIZE
    waves = int(rng.integers(1, 5))
    kind = number % 5
    if kind == 0:
        field = np.sign(np.sin(2 * np.pi * (waves * x + int(rng.integers(-2, 3)) * y)))
    elif kind == 1:
        field = np.sign(np.sin(2 * np.pi * waves * x) * np.sin(2 * np.pi * waves * y))
    elif kind == 2:
        field = np.where(np.hypot(waves * x % 1 - 0.5, waves * y % 1 - 0.5) < 0.3, 1.0, -1.0)
    elif kind == 3:
        cells = rng.uniform(-1, 1, (8 * waves, 8 * waves))
        field = np.kron(cells, np.ones((2, 2)))[np.ix_(*2 * [np.arange(TEXTURE_SIZE) % (16 * waves)])]
    else:
        field = np.zeros_like(x)
    pair = rng.uniform(0.45, 1.0, (2, 3))
    mix = (np.clip(field, -1, 1)[..., None] + 1) / 2
    return np.asarray(np.round((pair[0] * mix + pair[1] * (1 - mix)) * 255), dtype=np.uint8)
