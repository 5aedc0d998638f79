"""A dense data set of drawn pictures: tiles of colour, with a class, a depth and a normal for each colour."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np
from small_recipe import make_recipe

from mtpeft.data.dense import DENSE_DATASETS, Sample, TaskInfo
from mtpeft.errors import DataError

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
DEPTHS = np.array([1.0, 2.0, 3.0], np.float32)
NORMALS = np.array([[0, 0, 1], [0.6, 0, 0.8], [0, -0.6, 0.8]], np.float32)


class Tiles:
    """Four tiles of three colours per image; every `missing`-th image lacks its depth.

    `broken`: in the second of two processes, and there alone, training images cannot be read once the stream is built.
    """

    tasks: ClassVar = {
        "semseg": TaskInfo("semseg", {"classes": 3}, ("red", "green", "blue")),
        "depth": TaskInfo("depth"),
        "normals": TaskInfo("normals"),
    }

    def __init__(self, split: str, length: int = 12, missing: int = 0, broken: bool = False) -> None:
        self.split, self.length, self.missing = split, length, missing
        self.broken = broken and split == "train" and os.environ.get("RANK") == "1"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if self.broken and index:
            raise DataError("train tiles cannot be read in process 1")
        rng = np.random.default_rng((index, self.split == "val"))
        tiles = np.kron(rng.integers(0, 3, (2, 2)), np.ones((16, 16), np.int64))
        noise = rng.integers(0, 30, (32, 32, 3))
        labels = {"semseg": tiles, "depth": DEPTHS[tiles], "normals": NORMALS[tiles]}
        if self.missing and index % self.missing == 0:
            del labels["depth"]
        return Sample((COLOURS[tiles] + noise).astype(np.uint8), labels, f"{self.split} {index}")


if "tiles" not in DENSE_DATASETS:
    DENSE_DATASETS.add("tiles", Tiles)


def make_dense(**changes: Any) -> dict[str, Any]:
    """A recipe of three tasks that trains in a second or two; `changes` replace keys."""
    recipe = make_recipe(
        stream={
            "type": "dense_incremental",
            "data": {"name": "tiles"},
            "transforms": {"train": [{"name": "flip"}]},
            "head": {"name": "dense_linear"},
            "tasks": ["semseg", "depth", "normals"],
        },
        training={"epochs": 2, "batch_size": 4, "optimizer": {"type": "AdamW", "lr": 0.003}, "schedule": "cosine"},
    )
    del recipe["baselines"]
    return {**recipe, **changes}


def changed_stream(**changes: Any) -> dict[str, Any]:
    """The section `stream` of `make_dense` with other keys."""
    return {**make_dense()["stream"], **changes}
