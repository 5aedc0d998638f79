"""Small renders of the 3-D objects that come with pybullet, from random views, under random light.

Drawn by pybullet's software renderer (no display, no GPU). pybullet is optional: `pip install "mtpeft[sim]"`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtpeft.data.palette import backdrop, colours, compose, to_uint8
from mtpeft.errors import DataError

Array = np.ndarray

RENDER_SIZE = 96
RANDOM_OBJECTS = 1000
NAMED_OBJECTS = (
    "r2d2.urdf",
    "duck_vhacd.urdf",
    "teddy_vhacd.urdf",
    "lego/lego.urdf",
    "objects/mug.urdf",
    "kuka_iiwa/model.urdf",
    "racecar/racecar.urdf",
    "laikago/laikago.urdf",
    "table/table.urdf",
    "tray/tray.urdf",
    "soccerball.urdf",
    "bicycle/bike.urdf",
    "jenga/jenga.urdf",
    "xarm/xarm6_robot.urdf",
    "quadruped/minitaur.urdf",
    "aliengo/aliengo.urdf",
    "sphere8cube.urdf",
    "domino/domino.urdf",
)
MAX_OBJECTS = len(NAMED_OBJECTS) + RANDOM_OBJECTS


def object_name(index: int) -> str:
    """The URDF file of category `index`: the named objects first, then pybullet's 1000 random ones."""
    if not 0 <= index < MAX_OBJECTS:
        raise DataError(f"object category {index} does not exist; pybullet_data has categories 0 to {MAX_OBJECTS - 1}")
    if index < len(NAMED_OBJECTS):
        return NAMED_OBJECTS[index]
    number = f"{index - len(NAMED_OBJECTS):03d}"
    return f"random_urdfs/{number}/{number}.urdf"


def object_category(index: int, rng: np.random.Generator, instances: int, size: int) -> Array:
    """(instances, size, size, 3) uint8: one object, each time with another view, light, colour and background.

    Raises `DataError` when pybullet is not installed or the index is not below `MAX_OBJECTS`.
    """
    return _category(object_name(index), rng, instances, size)[..., :3]


def random_object_category(index: int, rng: np.random.Generator, instances: int, size: int) -> Array:
    """(instances, size, size, 4) uint8: the same of pybullet's random object `index` (0 to 999), and its relief.

    The relief is 0 where the object is not seen, and from 1 at the far to 255 at the near end of its bounding sphere.
    """
    if not 0 <= index < RANDOM_OBJECTS:
        raise DataError(f"random object {index} does not exist; pybullet_data has 0 to {RANDOM_OBJECTS - 1}")
    return _category(object_name(len(NAMED_OBJECTS) + index), rng, instances, size)


def _category(name: str, rng: np.random.Generator, instances: int, size: int) -> Array:
    bullet, folder = _pybullet()
    client = bullet.connect(bullet.DIRECT)
    try:
        body = bullet.loadURDF(str(folder / name), physicsClientId=client)
        recolour = name.startswith("random_urdfs")
        images = [_render(bullet, client, body, rng, size, recolour) for _ in range(instances)]
    finally:
        bullet.disconnect(client)
    return np.stack(images)


def _pybullet() -> tuple[Any, Path]:
    """The module and the folder of its object files."""
    try:
        bullet = importlib.import_module("pybullet")
        data = importlib.import_module("pybullet_data")
    except ImportError as error:
        raise DataError('rendered objects need pybullet, which is missing: pip install "mtpeft[sim]"') from error
    return bullet, Path(data.getDataPath())


def _render(bullet: Any, client: int, body: int, rng: np.random.Generator, size: int, recolour: bool) -> Array:
    foreground, background = colours(rng)
    if recolour:
        bullet.changeVisualShape(body, -1, rgbaColor=[*foreground, 1.0], physicsClientId=client)
    links = range(-1, bullet.getNumJoints(body, physicsClientId=client))
    boxes = np.array([bullet.getAABB(body, link, physicsClientId=client) for link in links])
    low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
    radius = float(np.linalg.norm(high - low)) / 2
    yaw, pitch, roll = rng.uniform(0, 360), rng.uniform(-60, 60), rng.normal(0, 25)
    distance, near, far = radius * 3.2, radius * 0.5, radius * 8
    view = bullet.computeViewMatrixFromYawPitchRoll(((low + high) / 2).tolist(), distance, yaw, pitch, roll, 2)
    # A sphere of the radius fits the field of view: 2 * atan(1 / 3.2) is 35 degrees.
    projection = bullet.computeProjectionMatrixFOV(40, 1, near, far)
    side = max(RENDER_SIZE, 2 * size)
    _, _, pixels, buffer, segments = bullet.getCameraImage(
        side,
        side,
        view,
        projection,
        lightDirection=rng.normal(size=3).tolist(),
        lightColor=rng.uniform(0.85, 1.0, 3).tolist(),
        lightAmbientCoeff=rng.uniform(0.3, 0.7),
        lightDiffuseCoeff=rng.uniform(0.4, 0.8),
        lightSpecularCoeff=rng.uniform(0.0, 0.3),
        shadow=int(rng.integers(2)),
        renderer=bullet.ER_TINY_RENDERER,
        physicsClientId=client,
    )
    shape = (side, side)
    colour = np.asarray(pixels, dtype=np.uint8).reshape(*shape, 4)[..., :3]
    cover = np.asarray(segments).reshape(shape) >= 0
    depth = far * near / (far - (far - near) * np.asarray(buffer, dtype=np.float64).reshape(shape))
    nearness = np.clip(0.5 + (distance - depth) / (2 * radius), 0, 1) * 255
    return _framed(np.dstack([colour, nearness]), cover, backdrop(rng, background, size), rng)


def _framed(layers: Array, cover: Array, behind: Array, rng: np.random.Generator) -> Array:
    """Cut the object out with a random margin, shrink it to the size of `behind` (S, S, 3) and lay it on top.

    `layers` are colour and nearness (H, W, 4), 0 to 255; gives colour and relief uint8 (S, S, 4).
    """
    size = len(behind)
    cut = cut_out(layers, cover, size, rng)
    if cut is None:
        return to_uint8(np.dstack([behind, np.zeros((size, size))]))
    small = cut / 255.0
    alpha = small[..., 4]
    relief = np.where(alpha >= 0.5, np.clip(small[..., 3] / np.maximum(alpha, 0.5), 1 / 255, 1), 0)
    return to_uint8(np.dstack([compose(alpha, 0.0, behind) + small[..., :3], relief]))


def cut_out(layers: Array, cover: Array, size: int, rng: np.random.Generator) -> Array | None:
    """The object that `cover` (H, W) marks in `layers` (H, W, C), 0 to 255, with a random margin around it.

    uint8 (size, size, C + 1): the layers times the coverage, and the coverage. None where there is no object.
    """
    rows, columns = np.nonzero(cover.any(axis=1))[0], np.nonzero(cover.any(axis=0))[0]
    if not len(rows):
        return None
    half = max(int(np.ptp(rows)), int(np.ptp(columns)), 4) / 2 * rng.uniform(1.0, 1.5)
    middle = np.array([columns[0] + columns[-1], rows[0] + rows[-1]]) / 2 + rng.normal(0, 0.06, 2) * half
    # Alpha and premultiplied values are shrunk together, so that no background of the renderer bleeds in at edges.
    layers = np.dstack([layers * cover[..., None], cover * 255]).astype(np.uint8)
    margin = len(cover)
    padded = np.pad(layers, ((margin, margin), (margin, margin), (0, 0)))
    (left, top), (right, bottom) = middle - half + margin, middle + half + margin
    box = (float(left), float(top), float(right), float(bottom))
    planes = [
        Image.fromarray(plane).resize((size, size), Image.Resampling.BOX, box=box)
        for plane in np.moveaxis(padded, -1, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
