"""From the number of a scene to its image and labels; the same number gives the same arrays everywhere."""

from __future__ import annotations

import io
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mtpeft.data.dense.scenes.catalogue import FAMILIES, ROBOTS
from mtpeft.data.dense.scenes.geometry import border_distance, edges, linear_depth, normals
from mtpeft.data.dense.scenes.stage import FAR, FIELD_OF_VIEW, NEAR, PIXEL_ORIGIN, Stage
from mtpeft.data.palette import halve, to_uint8
from mtpeft.files import sha256, write_atomic

Array = np.ndarray

SPLITS = ("train", "val")
CENTRES = (slice(0, None, 2), slice(1, None, 2))
"""The pixels, drawn at twice the size, that show the scene at the pixel centres of the size wanted: `PIXEL_ORIGIN`."""
ROBOT_SHARE = 0.85
"""Share of the scenes with a robot; the three families come equally often."""


def focal_length(size: int) -> float:
    """Pixels, of an image with `size` pixels to the side."""
    return size / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))


def render_scene(seed: int, split: str, index: int, size: int) -> dict[str, Array]:
    """One scene: `image` uint8 (S, S, 3), `semseg`, `parts`, `edges` uint8 (S, S), `depth` float32 (S, S), `normals`
    float16 (S, S, 3), `distance` float16 (S, S).

    Drawn at twice the size; the image is averaged over 2 x 2 pixels, labels keep the pixels at the centres.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    drawn = _stage(split, _choose_robot(rng, split)).draw(rng, 2 * size)
    depth = linear_depth(drawn["buffer"], NEAR, FAR)
    normal = normals(depth, focal_length(2 * size), drawn["surface"], PIXEL_ORIGIN)[CENTRES]
    small = {key: drawn[key][CENTRES] for key in ("body", "semseg", "parts", "surface")}
    depth = depth[CENTRES]
    # Floor and walls are told apart by their surface, the links of a robot are not.
    instances = np.where(small["body"] > 0, -small["body"], small["surface"])
    return {
        "image": to_uint8(halve(drawn["rgb"] / 255.0)),
        "semseg": small["semseg"],
        "parts": small["parts"],
        "depth": depth.astype(np.float32),
        "normals": normal.astype(np.float16),
        "edges": edges(depth, instances),
        "distance": border_distance(small["body"]).astype(np.float16),
    }


def draw_scenes(seed: int, split: str, indices: range, size: int) -> dict[str, Array]:
    """The scenes `indices` as stacked arrays."""
    scenes = [render_scene(seed, split, index, size) for index in indices]
    return {key: np.stack([scene[key] for scene in scenes]) for key in scenes[0]}


def render_shard(seed: int, split: str, indices: range, size: int, path: str) -> str:
    """Render the scenes `indices` into one compressed file; returns its SHA-256."""
    buffer = io.BytesIO()
    stacked: dict[str, Any] = draw_scenes(seed, split, indices, size)
    np.savez_compressed(buffer, **stacked)
    content = buffer.getvalue()
    write_atomic(Path(path), content)
    return sha256(content)


def _choose_robot(rng: np.random.Generator, split: str) -> int | None:
    """An index into `ROBOTS[split]`, or None for a scene without a robot."""
    if rng.random() >= ROBOT_SHARE:
        return None
    family = FAMILIES[int(rng.integers(len(FAMILIES)))]
    return int(rng.choice([i for i, robot in enumerate(ROBOTS[split]) if robot.family == family]))


@cache
def _stage(split: str, robot: int | None) -> Stage:
    """The world of a robot, kept by this process: its state never outlives a drawing."""
    return Stage(split, robot)
