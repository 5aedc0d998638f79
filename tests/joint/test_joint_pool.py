"""Pools in joint training: declared losses in the sum, by every way of weighting, in parts, in the curve and the log."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from squares import make_recipe, train

from mtpeft.errors import ConfigError
from mtpeft.joint.experiment import JointExperiment

POOL = {"name": "pool", "size": 4, "top_k": 2, "key_loss": 2.0, "orthogonality": 0.1}
LORA = {"name": "lora", "rank": 2}


def built(**changes: Any) -> JointExperiment:
    experiment = JointExperiment(make_recipe(**{"method": LORA, "sharing": POOL, **changes}))
    with torch.no_grad():
        for _, parameter in experiment.manager.trainable_parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return experiment


@pytest.mark.parametrize("sharing", [POOL, {"name": "pool", "choose": "own"}])
@pytest.mark.parametrize("weighting", ["fixed", "mgda"])
def test_parts_are_the_larger_batch(weighting: str, sharing: dict[str, Any]) -> None:
    states = []
    for sizes in ((6,), (2, 4)):
        experiment = built(weighting={"name": weighting}, sharing=sharing)
        bounds = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        parts = [next(experiment.data.batches("train", 0, range(a, b), b - a)) for a, b in pairwise(bounds)]
        for _ in range(2):
            losses = experiment.model.train_step({"parts": parts, "after": {}}, experiment.optim_wrapper)
        assert set(losses) == set(experiment.manager.tasks)
        states.append({n: p.detach().clone() for n, p in experiment.model.trained()})
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("weighting", ["fixed", "pcgrad"])
def test_the_gradient_is_that_of_the_sum(weighting: str) -> None:
    """What the key loss gives to keys, which no task's loss depends on, is there whole under every weighting."""
    experiment = built(weighting={"name": weighting})
    part = next(experiment.data.batches("train", 0, range(4), 4))
    manager = experiment.manager.train()
    manager.forward_tasks(part["images"], manager.tasks)
    keys = [p for n, p in experiment.model.trained() if n.endswith("keys")]
    expected = torch.autograd.grad(manager.penalty(), keys)
    found: list[torch.Tensor] = []
    step = experiment.optim_wrapper.step
    experiment.optim_wrapper.step = lambda: (found.extend(p.grad.clone() for p in keys), step())
    experiment.model.train_step({"parts": [part], "after": {}}, experiment.optim_wrapper)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    (_, losses) = experiment.model.recent.read()[0]
    assert {"penalty/keys", "penalty/orthogonality"} <= losses.keys()


def test_a_killed_run_ends_the_same(tmp_path: Path) -> None:
    recipe = make_recipe(method=LORA, sharing=POOL)
    experiment, whole = train(recipe, tmp_path / "whole")
    assert whole is not None and {p["task"] for p in experiment.curve.added} == {
        "penalty/keys",
        "penalty/orthogonality",
    }
    assert train(recipe, tmp_path / "killed", kill_at=5)[1] is None
    assert train(recipe, tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


@pytest.mark.parametrize(
    ("sharing", "message"),
    [
        ({"name": "pool", "frequency": True}, "all tasks are trained together"),
        ({"name": "pool", "choose": "own", "from_previous": True}, "all tasks are made at once"),
    ],
)
def test_what_looks_at_earlier_tasks_is_refused(sharing: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(sharing=sharing)
