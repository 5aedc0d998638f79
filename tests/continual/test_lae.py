"""LAE's parts against the formulas of the paper."""

from __future__ import annotations

from typing import Any

import torch
from conftest import make_recipe
from torch.nn import functional as F

from mtpeft.continual.experiment import Experiment
from mtpeft.continual.lae import LAEPlugin

CLASS = {**make_recipe()["stream"], "type": "class_incremental"}


def lae(momentum: float = 0.8, frozen_epochs: int = 0, **changes: Any) -> tuple[Experiment, LAEPlugin]:
    recipe = make_recipe(
        stream=CLASS, plugins=[{"type": "LAE", "momentum": momentum, "frozen_epochs": frozen_epochs}], **changes
    )
    experiment = Experiment(recipe)
    return experiment, next(p for p in experiment.strategy.plugins if isinstance(p, LAEPlugin))


def shared(experiment: Experiment) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in experiment.model.named_parameters() if not n.startswith("heads.")}


def test_accumulation_follows_every_step() -> None:
    """off <- a off + (1 - a) on after each step, from a copy taken when the second task starts."""
    experiment, plugin = lae()
    experiment.strategy.train_experience(0)
    assert not plugin.offline
    expected = shared(experiment)

    def step() -> None:
        for name, online in shared(experiment).items():
            expected[name] = 0.8 * expected[name] + 0.2 * online

    experiment.strategy.on_step = step
    experiment.strategy.train_experience(1)
    for name, value in plugin.offline.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)
    assert any(not torch.equal(value, shared(experiment)[name]) for name, value in plugin.offline.items())


def test_online_weights_wait_for_the_head() -> None:
    """In the first epochs of the second task only the new head moves; in the first task nothing is frozen."""
    experiment, _ = lae(frozen_epochs=2)  # all of the task's two epochs
    before = shared(experiment)
    experiment.strategy.train_experience(0)
    after_first = shared(experiment)
    assert all(not torch.equal(before[n], after_first[n]) for n in before)
    experiment.strategy.train_experience(1)
    assert all(torch.equal(after_first[n], value) for n, value in shared(experiment).items())


def test_local_cross_entropy_sees_the_new_classes_only() -> None:
    experiment, _ = lae()
    strategy = experiment.strategy
    strategy.train_experience(0)
    old = experiment.manager.head("task0").part("task0")  # type: ignore[operator, union-attr]
    before = old.weight.detach().clone()
    seen = []
    strategy.on_step = lambda: seen.append((strategy.mb_output.detach(), strategy.mb_y, strategy.loss.detach()))
    strategy.train_experience(1)
    assert torch.equal(old.weight, before)
    for logits, labels, loss in seen:
        torch.testing.assert_close(loss.squeeze(), F.cross_entropy(logits[:, 2:4], labels - 2))


def test_prediction_is_the_larger_probability_of_both_copies() -> None:
    experiment, plugin = lae()
    for index in range(2):
        experiment.strategy.train_experience(index)
    images, labels = experiment.stream[0].test.batch(range(20))
    manager = experiment.manager.eval()
    with torch.no_grad():
        online = manager(images, "task1").softmax(1)
        kept = {n: p.detach().clone() for n, p in experiment.model.named_parameters()}
        experiment.model.load_state_dict({**kept, **plugin.offline})
        offline = manager(images, "task1").softmax(1)
        experiment.model.load_state_dict(kept)
    expected = 100 * (torch.maximum(online, offline).argmax(1) == labels).double().mean().item()
    assert experiment.strategy.measure(0) == (expected, 20)
    for name, parameter in experiment.model.named_parameters():
        assert torch.equal(parameter, kept[name])


def test_over_any_shared_method() -> None:
    for method in ("prefix_tuning", "ssf", "vpt_shallow"):
        options = {"calibrated": True} if method == "prefix_tuning" else {}
        experiment, plugin = lae(method={"name": method, **options})
        for index in range(2):
            experiment.strategy.train_experience(index)
        assert set(plugin.offline) == set(shared(experiment))
