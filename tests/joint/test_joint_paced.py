"""Joint runs of a method that is told of steps and epochs: what it is told when, and killed and started again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from squares import make_recipe, train

from mtpeft.manager.manager import TaskManager
from mtpeft.manager.pace import paced_modules
from mtpeft.runs.state import State

METHOD = {"name": "faar", "rank": 8, "task_rank": 6, "coverage": 0.7, "momentum": 0.5, "dropout": 0.1}
RUNS: dict[str, dict[str, Any]] = {
    "all tasks": {"transforms": {"train": [{"name": "flip"}], "val": []}},
    "tasks drawn, float16, missing labels": {
        "sampler": {"name": "uniform"},
        "data": {"missing": 3, "empty": True},
        "training": {"amp": "float16", "clip": 1.0},
    },
    "pcgrad, two batches a step, workers": {
        "weighting": {"name": "pcgrad"},
        "training": {"batch_size": 2, "accumulate": 2, "workers": 1},
    },
}


def recipe_of(name: str = "", **changes: Any) -> dict[str, Any]:
    """12 images, 4 of them in a step: an epoch is 3 steps."""
    return make_recipe(**{"method": METHOD, "sharing": None, **RUNS.get(name, {}), **changes})


@pytest.mark.parametrize("name", RUNS)
def test_killed_run_ends_the_same(name: str, tmp_path: Path) -> None:
    """8 steps, a checkpoint every other one; killed in the second epoch and in the third; ranks, scores and weights too."""
    recipe = recipe_of(name)
    first, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    for kill_at, saved in ((5, 4), (3, 6)):
        assert train(recipe, tmp_path / "killed", kill_at)[1] is None
        assert State(tmp_path / "killed/checkpoints").read()["step"] == saved
    second, results = train(recipe, tmp_path / "killed")
    assert results is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    torch.testing.assert_close(first.manager.trained_state(), second.manager.trained_state(), rtol=0, atol=0)
    ranks = [int(module.rank) for module in paced_modules(second.manager)]  # type: ignore[attr-defined]
    assert len(set(ranks)) > 2 and min(ranks) >= 1


@pytest.mark.parametrize("training", [{}, {"batch_size": 5}, {"batch_size": 2, "accumulate": 2}])
def test_what_is_told_when(training: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are whole before they are used; an epoch ends with its last sample, before the state is saved."""
    told: list[str] = []
    for name in ("before_step", "after_backward", "after_epoch"):
        own = getattr(TaskManager, name)
        monkeypatch.setattr(TaskManager, name, lambda self, n=name, own=own: (told.append(n), own(self)))
    experiment, _ = train(recipe_of(training={"steps": 6, "eval_every": 6, **training}), tmp_path / "run")
    steps, batch = " ".join(told).split("after_epoch"), experiment.training.batch_size * experiment.training.accumulate
    ends = [step for step in range(1, 7) if step * batch // 12 > (step - 1) * batch // 12]
    lengths = [stop - start for start, stop in zip([0, *ends], [*ends, 6], strict=True)]
    assert [part.split() for part in steps] == [["before_step", "after_backward"] * length for length in lengths]
    seen = {int(module.seen) for module in paced_modules(experiment.manager)}  # type: ignore[attr-defined]
    assert seen <= {0, lengths[-1]}


def test_two_batches_are_a_step_of_one_draw(tmp_path: Path) -> None:
    """Weights, scores and ranks are those of the batch in one."""
    method = {**METHOD, "dropout": 0.0}
    own = {"optimizer": {"type": "SGD", "lr": 0.002}}
    one, _ = train(recipe_of(method=method, training={**own, "batch_size": 4}), tmp_path / "one")
    two, _ = train(recipe_of(method=method, training={**own, "batch_size": 2, "accumulate": 2}), tmp_path / "two")
    torch.testing.assert_close(one.manager.trained_state(), two.manager.trained_state(), rtol=0, atol=1e-5)
    assert {int(module.rank) for module in paced_modules(one.manager)} != {8, 6}  # type: ignore[attr-defined]
