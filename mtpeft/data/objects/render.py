"""Views of one object, without a background. Drawn by pybullet's software renderer: no display, no GPU."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mtpeft.data.objects.catalogue import FILES
from mtpeft.data.objects.lights import LIGHTS, Light, pick
from mtpeft.data.quiet import silence
from mtpeft.data.rendered import RENDER_SIZE, _pybullet, cut_out
from mtpeft.errors import DataError

Array = np.ndarray

PARTS = ("train", "test")
SECTORS = {"train": (0.0, 50.0), "test": (60.0, 80.0)}
"""Directions, in degrees from the start of each quarter of the circle, from which the objects of a part are seen."""
ELEVATION = (5.0, 45.0)
"""Angle of the camera above the horizon, in degrees."""
PAINT_SPREAD = 0.1
"""Standard deviation, in each colour (0 to 1), of an image's paint around that of the object."""
ROLL = 5.0
"""Standard deviation of the camera's turn about its axis, in degrees."""


def views_of(name: str, part: str, light: str, views: int, size: int, seed: int) -> Array:
    """uint8 (views, size, size, 4): red, green and blue, times the coverage; the coverage of the pixel by the object.

    A view is a function of its number and all arguments but `views`. Raises `DataError` when pybullet is missing.
    """
    with silence():
        bullet, folder = _pybullet()
    client = bullet.connect(bullet.DIRECT)
    try:
        with silence():
            bodies = _load(bullet, client, folder / FILES[name])
        stage = _Stage(bullet, client, bodies, name)
        origin = [seed, PARTS.index(part), zlib.crc32(f"{name} {light}".encode())]
        drawn = [stage.draw(np.random.default_rng([*origin, view]), part, light, size) for view in range(views)]
    finally:
        bullet.disconnect(client)
    return np.stack(drawn)


def paint_of(name: str) -> Array:
    """(3,) in [0, 1]: the colour of an object."""
    return np.random.default_rng(zlib.crc32(name.encode())).uniform(0.2, 1.0, 3)


def azimuth(rng: np.random.Generator, part: str) -> float:
    """A direction of the part, in degrees: never one of the other part."""
    return float(90 * rng.integers(4) + rng.uniform(*SECTORS[part]))


def _load(bullet: Any, client: int, file: Path) -> list[int]:
    """The bodies of a file."""
    if not file.is_file():
        raise DataError(f"{file} is missing; install pybullet anew: pip install --force-reinstall pybullet")
    if file.suffix == ".urdf":
        return [bullet.loadURDF(str(file), physicsClientId=client)]
    if file.suffix == ".sdf":
        return list(bullet.loadSDF(str(file), physicsClientId=client))
    if file.suffix == ".xml":
        return list(bullet.loadMJCF(str(file), physicsClientId=client))
    kind = bullet.GEOM_MESH
    shapes = {
        "baseVisualShapeIndex": bullet.createVisualShape(kind, fileName=str(file), physicsClientId=client),
        "baseCollisionShapeIndex": bullet.createCollisionShape(kind, fileName=str(file), physicsClientId=client),
    }
    return [bullet.createMultiBody(physicsClientId=client, **shapes)]


class _Stage:
    """A world with one object in it, which is all of `bodies`."""

    def __init__(self, bullet: Any, client: int, bodies: list[int], name: str) -> None:
        self.bullet, self.client, self.name = bullet, client, name
        self.paint = paint_of(name)
        self.links = [
            (body, link) for body in bodies for link in range(-1, bullet.getNumJoints(body, physicsClientId=client))
        ]
        boxes = np.array([bullet.getAABB(*pair, physicsClientId=client) for pair in self.links])
        low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
        self.middle, self.radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2

    def draw(self, rng: np.random.Generator, part: str, light: str, size: int) -> Array:
        """One view, painted at random and cut out with a random margin: uint8 (size, size, 4)."""
        bullet = self.bullet
        yaw, elevation, roll = azimuth(rng, part), rng.uniform(*ELEVATION), rng.normal(0, ROLL)
        lit = LIGHTS[pick(tuple(LIGHTS), light, rng)]
        paint = [*np.clip(self.paint + rng.normal(0, PAINT_SPREAD, 3), 0, 1), 1.0]
        for body, link in self.links:
            bullet.changeVisualShape(body, link, rgbaColor=paint, physicsClientId=self.client)
        # A sphere of the radius fits the field of view: 2 * atan(1 / 3.2) is 35 degrees.
        distance = self.radius * 3.2
        view = bullet.computeViewMatrixFromYawPitchRoll(self.middle.tolist(), distance, yaw, -elevation, roll, 2)
        projection = bullet.computeProjectionMatrixFOV(40, 1, self.radius * 0.5, self.radius * 8)
        side = max(RENDER_SIZE, 2 * size)
        _, _, pixels, _, segments = bullet.getCameraImage(
            side,
            side,
            view,
            projection,
            lightDirection=_direction(rng, lit, yaw).tolist(),
            lightDistance=self.radius * 8,
            lightColor=list(lit.colour),
            lightAmbientCoeff=rng.uniform(*lit.ambient),
            lightDiffuseCoeff=rng.uniform(*lit.diffuse),
            lightSpecularCoeff=rng.uniform(*lit.specular),
            shadow=int(lit.shadow),
            renderer=bullet.ER_TINY_RENDERER,
            physicsClientId=self.client,
        )
        colour = np.asarray(pixels, dtype=np.uint8).reshape(side, side, 4)[..., :3]
        cover = np.asarray(segments).reshape(side, side) >= 0
        cut = cut_out(colour, cover, size, rng)
        if cut is None:
            raise DataError(f"{FILES[self.name]} shows nothing from {yaw:.0f} degrees; install pybullet 3.2.7")
        return cut


def _direction(rng: np.random.Generator, light: Light, yaw: float) -> Array:
    """(3,) from the object to the light; a camera of yaw 0 looks along y."""
    turn = math.radians(yaw + rng.choice([-1.0, 1.0]) * rng.uniform(*light.beside))
    above = math.radians(rng.uniform(*light.above))
    return np.array([math.sin(turn) * math.cos(above), -math.cos(turn) * math.cos(above), math.sin(above)])
