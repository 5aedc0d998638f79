"""What the benchmarks of the engines share: one small run of each, stopped after some steps."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np

from mtpeft.continual.experiment import Experiment
from mtpeft.data.dense import DENSE_DATASETS, Sample, TaskInfo
from mtpeft.joint.experiment import JointExperiment
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress

ENGINES = {"continual": Experiment, "joint": JointExperiment}


class Noise:
    """Images of noise with ten classes per pixel."""

    tasks: ClassVar[dict[str, TaskInfo]] = {"semseg": TaskInfo("semseg", {"classes": 10}, tuple("0123456789"))}

    def __init__(self, split: str, size: int, length: int = 64) -> None:
        self.split, self.size, self.length = split, size, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (self.size, self.size, 3)).astype(np.uint8)
        return Sample(image, {"semseg": rng.integers(0, 10, (self.size, self.size))}, f"{self.split}{index}")


DENSE_DATASETS.add("noise", Noise)


def recipe(engine: str, options: argparse.Namespace, **training: Any) -> dict[str, Any]:
    """One recipe of an engine, alike but for the data and the head: a shared LoRA on `options.model`."""
    common = {
        "name": f"benchmark_{engine}",
        "backbone": {"name": options.model, "pretrained": False},
        "method": {"name": "lora", "rank": 8},
        "sharing": "shared",
        "checkpoint": {"interval": 1_000_000},
    }
    training = {"batch_size": options.batch, **training}
    if engine == "joint":
        return {
            **common,
            "data": {"name": "noise", "size": options.size},
            "head": {"name": "dense_linear"},
            "tasks": {"semseg": {}},
            "training": {"steps": 1_000_000, **training},
        }
    stream = {
        "type": "task_incremental",
        "data": {"type": "FashionMNIST"},
        "num_tasks": 5,
        "train_per_class": options.batch * (options.steps + 2) // 2,
        "test_per_class": 1,
    }
    return {**common, "stream": stream, "training": {"epochs": 1, **training}, "baselines": False}


class _Enough(Exception):
    """Ends a run."""


def run(values: dict[str, Any], steps: int, begin: Callable[[Any], Callable[[], None]]) -> None:
    """Train `steps` steps of a recipe; `begin(experiment)` gives what is called after each."""
    engine = "joint" if "tasks" in values else "continual"
    left = iter(range(steps))
    calls: list[Callable[[], None]] = []

    def step() -> None:
        calls[0]()
        if next(left, None) is None:
            raise _Enough

    experiment: Any = ENGINES[engine](values, Progress(step=step))
    calls.append(begin(experiment))
    with TemporaryDirectory() as folder:
        try:
            experiment.run(RunFolder(Path(folder) / "run", values))
        except _Enough:
            return
