"""Small joint runs: drawn squares with three labels, on a two-block ViT of random weights."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mtpeft.data.dense import DENSE_DATASETS, Sample, TaskInfo
from mtpeft.errors import DataError
from mtpeft.joint.experiment import JointExperiment
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress

SIZE = 32
TASKS = ("semseg", "depth", "normals")


class Squares:
    """One coloured square on a dark ground per image: its class, its depth, the direction it faces.

    `missing`: every so many samples lack a label ("semseg" then "depth" in turn). `empty`: the depth of sample 0 has no
    valid pixel. `broken`: where in the second of two processes, and there alone, something is wrong: "build", "read" or
    "measure" is a mistake in the data, "bug" one in the code; every process warns, too.
    """

    def __init__(
        self,
        split: str,
        length: int = 12,
        tasks: tuple[str, ...] = TASKS,
        missing: int = 0,
        empty: bool = False,
        broken: str = "",
    ):
        self.broken = broken if os.environ.get("RANK") == "1" else ""
        if broken:
            warnings.warn(f"a warning of process {os.environ['RANK']}", stacklevel=2)
        if self.broken == "build":
            raise DataError("no squares here")
        self.split, self.length, self.missing, self.empty = split, length, missing, empty
        infos = {
            "semseg": TaskInfo("semseg", {"classes": 3}, ("ground", "red", "blue")),
            "depth": TaskInfo("depth"),
            "normals": TaskInfo("normals"),
        }
        self.tasks = {task: infos[task] for task in tasks}
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        self.reads.append(index)
        if self.broken in ("read", "measure") and self.split == {"read": "train", "measure": "val"}[self.broken]:
            raise DataError(f"square {self.split} cannot be read")
        if self.broken == "bug":
            raise ZeroDivisionError("a mistake in the code")
        rng = np.random.default_rng((index, self.split == "val"))
        image = rng.integers(0, 40, (SIZE, SIZE, 3)).astype(np.uint8)
        semseg = np.zeros((SIZE, SIZE), np.int64)
        depth = np.full((SIZE, SIZE), 3.0, np.float32)
        normals = np.zeros((SIZE, SIZE, 3), np.float32)
        normals[..., 2] = 1.0
        kind, top, left = int(rng.integers(1, 3)), *(int(n) for n in rng.integers(0, SIZE - 16, 2))
        place = np.s_[top : top + 16, left : left + 16]
        image[place] = (220, 30, 30) if kind == 1 else (30, 30, 220)
        semseg[place], depth[place], normals[place] = kind, float(kind), (0.6, 0.0, 0.8)
        labels = {"semseg": semseg, "depth": depth, "normals": normals}
        if self.missing and index % self.missing == 0:
            del labels["semseg" if index % (2 * self.missing) == 0 else "depth"]
        if self.empty and index == 0:
            labels["depth"] = np.zeros_like(depth)
        return Sample(image, {t: y for t, y in labels.items() if t in self.tasks}, f"{self.split}{index}")


if "squares" not in DENSE_DATASETS:
    DENSE_DATASETS.add("squares", Squares)


def make_recipe(**changes: Any) -> dict[str, Any]:
    """A recipe that trains in a second or two; `changes` replace keys, or are merged into sections."""
    recipe: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "backbone": {"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 2, "patch_size": 8}},
        "method": {"name": "lora", "rank": 4, "dropout": 0.1},
        "sharing": "shared",
        "data": {"name": "squares"},
        "head": {"name": "dense_linear"},
        "tasks": {task: {} for task in TASKS},
        "training": {
            "steps": 8,
            "batch_size": 4,
            "optimizer": {"type": "AdamW", "lr": 0.003},
            "schedule": "cosine",
            "warmup": 0.05,
            "log_every": 2,
            "eval_every": 4,
        },
        "checkpoint": {"interval": 2},
        "pictures": 1,
        "gradient_conflict": 1,
    }
    for key, value in changes.items():
        merge = isinstance(value, dict) and isinstance(recipe.get(key), dict) and key in ("training", "data")
        recipe[key] = {**recipe[key], **value} if merge else value
    return recipe


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is saved on its way."""


def train(
    recipe: dict[str, Any], folder: Path, kill_at: int | None = None
) -> tuple[JointExperiment, dict[str, Any] | None]:
    """Run a recipe in `folder`, to the end or until the process "dies" in step `kill_at`, counted from the start."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise Killed

    experiment = JointExperiment(recipe, Progress(step=step))
    try:
        return experiment, experiment.run(RunFolder(folder, recipe))
    except Killed:
        return experiment, None
