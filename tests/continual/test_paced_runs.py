"""Continual runs of a method that is told of steps and epochs: what it is told when, and killed and started again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import train

from mtpeft.manager.manager import TaskManager
from mtpeft.manager.pace import paced_modules
from mtpeft.runs.state import State

METHOD = {"name": "faar", "rank": 8, "task_rank": 6, "coverage": 0.7, "momentum": 0.5, "dropout": 0.1}
BASE = make_recipe()
STREAM = {**BASE["stream"], "num_tasks": 2}
RUNS: dict[str, dict[str, Any]] = {
    "task-incremental": {},
    "replay": {"plugins": [{"type": "ReplayPlugin", "mem_size": 20}]},
    "two batches a step, float16": {
        "training": {**BASE["training"], "batch_size": 8, "accumulate": 2, "amp": "float16", "clip": 1.0}
    },
}


def recipe_of(name: str = "") -> dict[str, Any]:
    """Two tasks of two epochs of 5 steps."""
    return make_recipe(**{"method": METHOD, "sharing": None, "stream": STREAM, **RUNS.get(name, {})})


@pytest.mark.parametrize("name", RUNS)
def test_killed_run_ends_the_same(name: str, tmp_path: Path) -> None:
    """Killed right after an epoch's end and in the middle of another; ranks, scores and weights too."""
    recipe = recipe_of(name)
    first, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    for kill_at in (6, 7):
        assert train(recipe, tmp_path / "killed", kill_at)[1] is None
        assert State(tmp_path / "killed/checkpoints").exists
    second, results = train(recipe, tmp_path / "killed")
    assert results is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    torch.testing.assert_close(first.manager.trained_state(), second.manager.trained_state(), rtol=0, atol=0)
    ranks = [int(module.rank) for module in paced_modules(second.manager)]  # type: ignore[attr-defined]
    assert len(set(ranks)) > 2 and min(ranks) >= 1


@pytest.mark.parametrize("name", ["task-incremental", "two batches a step, float16"])
def test_what_is_told_when(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a step, whatever it is made of, and once an epoch."""
    told: list[str] = []
    for method in ("before_step", "after_backward", "after_epoch"):
        own = getattr(TaskManager, method)
        monkeypatch.setattr(TaskManager, method, lambda self, n=method, own=own: (told.append(n), own(self)))
    train(recipe_of(name), tmp_path / "run")
    epoch = ["before_step", "after_backward"] * 5 + ["after_epoch"]
    assert told == epoch * 4
