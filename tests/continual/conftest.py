"""Small continual runs: scikit-learn's digits on a two-block ViT of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtpeft.continual.experiment import Experiment
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress


def make_recipe(**changes: Any) -> dict[str, Any]:
    """A recipe that trains in a second or two; `changes` replace top-level keys."""
    recipe: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "backbone": {"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 2, "patch_size": 8}},
        "method": {"name": "lora", "rank": 4, "dropout": 0.1},
        "sharing": "shared",
        "stream": {
            "type": "task_incremental",
            "data": {"type": "Digits"},
            "num_tasks": 5,
            "train_per_class": 16,
            "test_per_class": 10,
        },
        "training": {"epochs": 2, "batch_size": 16, "optimizer": {"type": "AdamW", "lr": 0.003}, "schedule": "cosine"},
        "checkpoint": {"interval": 2},
        "baselines": False,
    }
    recipe.update(changes)
    return recipe


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is saved on its way."""


def train(recipe: dict[str, Any], folder: Path, kill_at: int | None = None) -> tuple[Experiment, dict[str, Any] | None]:
    """Run a recipe in `folder`, to the end or until the process "dies" after optimiser step `kill_at`."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise Killed

    experiment = Experiment(recipe, Progress(step=step))
    try:
        return experiment, experiment.run(RunFolder(folder, recipe))
    except Killed:
        return experiment, None


@pytest.fixture
def recipe() -> Callable[..., dict[str, Any]]:
    """The maker of small recipes."""
    return make_recipe
