"""Weights pulled towards the mean of earlier tasks', against the formula of MOS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import train

from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError
from mtpeft.runs.state import State

STREAM = {**make_recipe()["stream"], "first": 3, "train_per_class": 8, "test_per_class": 4}
ADAPTER = {"name": "adaptformer", "bottleneck_dim": 3}
CHANGES: dict[str, Any] = {
    "stream": STREAM,
    "method": ADAPTER,
    "sharing": "per_task",
    "training": {"epochs": 2, "batch_size": 8, "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
}


def pulled(**options: Any) -> Experiment:
    return Experiment(make_recipe(**CHANGES, plugins=[{"type": "PullToEarlier", **options}]))


def weights(experiment: Experiment, task: str) -> dict[str, torch.Tensor]:
    bank = experiment.manager.methods[0].weights.bank(task)
    return {name: tensor.detach().clone() for name, tensor in bank.named_parameters()}


@pytest.mark.parametrize("warm_start", [True, False])
def test_every_step_ends_nearer_to_the_mean_of_earlier_tasks(warm_start: bool) -> None:
    """A <- 0.7 A + 0.3 mean(A_0 .. A_{t-1}) of what the optimiser left; the first task is trained as ever."""
    experiment = pulled(strength=0.3, warm_start=warm_start)
    strategy, update = experiment.strategy, experiment.strategy.optimizer_step
    drawn = {task: weights(experiment, task) for task in ("task0", "task1", "task2")}
    start: list[dict[str, torch.Tensor]] = []
    stepped: list[dict[str, torch.Tensor]] = []
    steps, task = [0], ""

    def optimizer_step() -> None:
        if not start:
            start.append(weights(experiment, task))
        update()
        stepped.append(weights(experiment, task))

    def on_step() -> None:
        steps[0] += 1
        for name, found in weights(experiment, task).items():
            earlier = [w[name].double() for w in before]
            expected = stepped[-1][name].double()
            if earlier:
                expected = 0.7 * expected + 0.3 * sum(earlier) / len(earlier)
            torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)

    strategy.optimizer_step, strategy.on_step = optimizer_step, on_step  # type: ignore[method-assign]
    before: list[dict[str, torch.Tensor]] = []
    for index, task in enumerate(("task0", "task1", "task2")):
        start.clear()
        strategy.train_experience(index)
        begun = before[-1] if before and warm_start else drawn[task]
        assert all(torch.equal(tensor, begun[name]) for name, tensor in start[0].items())
        before.append(weights(experiment, task))
    assert steps == [12]
    for kept, name in zip(before, ("task0", "task1", "task2"), strict=True):  # earlier sets stay
        assert all(torch.equal(tensor, kept[key]) for key, tensor in weights(experiment, name).items())


def test_a_killed_run_ends_the_same(tmp_path: Path) -> None:
    """Within a task its start is not made again."""
    recipe = make_recipe(**CHANGES, plugins=[{"type": "PullToEarlier"}])
    assert train(recipe, tmp_path / "whole")[1] is not None
    for kill_at, place in ((7, (1, 1)), (5, (2, 1))):
        assert train(recipe, tmp_path / "killed", kill_at)[1] is None
        position = (State(tmp_path / "killed/checkpoints").read() or {})["position"]
        assert (position["experience"], position["epoch"]) == place
    assert train(recipe, tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sharing": "shared"}, "sharing='per_task' for method 'adaptformer', not 'shared'"),
    ({"method": "linear_probe"}, "no attached method has weights"),
    ({"method": {"name": "sct"}}, "which method 'sct' chooses anew for every task"),
    ({"plugins": [{"type": "PullToEarlier", "strength": 1.0}]}, "PullToEarlier': strength is 1.0"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_is_said_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Experiment(make_recipe(**{**CHANGES, "plugins": [{"type": "PullToEarlier"}], **changes}))
    assert "\n" not in str(caught.value)
