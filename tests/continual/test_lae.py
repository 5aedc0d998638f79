"""LAE's parts against the formulas of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_recipe import make_recipe
from small_runs import train
from torch.nn import functional as F

import mtpeft
from mtpeft.continual.command import evaluate
from mtpeft.continual.experiment import Experiment
from mtpeft.continual.lae import LAEPlugin
from mtpeft.errors import ConfigError

CLASS = {**make_recipe()["stream"], "type": "class_incremental"}


def fresh_backbone() -> torch.nn.Module:
    """The backbone of `make_recipe` once more."""
    torch.manual_seed(make_recipe()["seed"])
    section = make_recipe()["backbone"]
    return timm.create_model(section["name"], pretrained=False, num_classes=0, **section["options"])


def lae(momentum: float = 0.8, frozen_epochs: int = 0, **changes: Any) -> tuple[Experiment, LAEPlugin]:
    plugins = [{"type": "LAE", "momentum": momentum, "frozen_epochs": frozen_epochs}]
    recipe = make_recipe(**{"stream": CLASS, "sharing": "averaged", "plugins": plugins, **changes})
    experiment = Experiment(recipe)
    return experiment, next(p for p in experiment.strategy.plugins if isinstance(p, LAEPlugin))


def shared(experiment: Experiment) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in experiment.model.named_parameters() if not n.startswith("heads.")}


def offline(experiment: Experiment) -> dict[str, torch.Tensor]:
    """The average, under the names of the trained weights."""
    found = experiment.manager.state_dict()
    return {n.replace(".average.", ".common."): t.clone() for n, t in found.items() if ".average." in n}


def test_accumulation_follows_every_step() -> None:
    """off <- a off + (1 - a) on after each step, from a copy taken when the second task starts."""
    experiment, _ = lae()
    experiment.strategy.train_experience(0)
    assert [a.weights.members for a in experiment.manager.methods] == [1]
    expected = shared(experiment)

    def step() -> None:
        for name, online in shared(experiment).items():
            expected[name] = 0.8 * expected[name] + 0.2 * online

    experiment.strategy.on_step = step
    experiment.strategy.train_experience(1)
    found = offline(experiment)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)
    assert any(not torch.equal(value, shared(experiment)[name]) for name, value in found.items())


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
    """By hand, from the plain weights, for one task, a mixed batch, and several tasks of every image."""
    experiment, _ = lae()
    for index in range(2):
        experiment.strategy.train_experience(index)
    images, labels = experiment.stream[0].test.batch(range(20))
    manager = experiment.manager.eval()
    plain = mtpeft.attach(fresh_backbone(), "lora", sharing="shared", rank=4)
    for name in manager.tasks:
        plain.add_task(name, 2, head="growing")
    kept = {n: t for n, t in manager.state_dict().items() if n.startswith("heads.")}
    scores = []
    for copy in (shared(experiment), offline(experiment)):
        plain.load_state_dict({**kept, **copy}, strict=False)
        with torch.no_grad():
            scores.append(plain.eval()(images, "task1").softmax(1))
    assert not torch.allclose(*scores, atol=1e-3)
    expected = torch.maximum(*scores)
    with torch.no_grad():
        torch.testing.assert_close(manager(images, "task1").exp(), expected)
        torch.testing.assert_close(manager(images, ["task0"] * 20)["task0"][1].exp(), expected)
        torch.testing.assert_close(manager.forward_tasks(images, ["task0", "task1"])["task0"].exp(), expected)
    right = 100 * (expected.argmax(1) == labels).double().mean().item()
    assert experiment.strategy.measure(0) == (right, 20)


@pytest.mark.parametrize("kind", ["class_incremental", "task_incremental"])
def test_a_saved_run_predicts_by_both_copies(kind: str, tmp_path: Path) -> None:
    """model/ loaded elsewhere gives the numbers of results.json, and so does `mtpeft evaluate`."""
    plugins = [{"type": "LAE", "momentum": 0.97, "frozen_epochs": 0}]
    recipe = make_recipe(stream={**CLASS, "type": kind, "num_tasks": 5}, sharing="averaged", plugins=plugins)
    experiment, results = train(recipe, tmp_path / "run")
    assert results is not None
    manager = mtpeft.load(tmp_path / "run/model", fresh_backbone()).eval()
    names = {name.rpartition("weights.")[2].partition(".")[0] for name in manager.trained_state()}
    assert {"common", "average", "begun"} <= names
    online = mtpeft.load(tmp_path / "run/model", fresh_backbone()).eval()
    online.methods[0].weights.begun.fill_(False)  # type: ignore[union-attr, operator]
    differs = False
    for task, old in zip(experiment.stream, results["matrix"]["values"][-1], strict=True):
        images, labels = task.test.batch(range(len(task.test)))
        with torch.no_grad():
            scores, alone = manager(images, task.name), online(images, task.name)
        assert 100 * ((scores.argmax(1) == labels).sum().item() / len(labels)) == old
        differs |= not torch.allclose(scores, alone.log_softmax(1), atol=1e-4)
    assert differs
    assert evaluate(tmp_path / "run") == 0
    with pytest.raises(ConfigError, match="predicts by 2 copies"):
        manager.merge("task0")


def test_both_copies_count_as_what_they_are() -> None:
    """The average is no trained weight; it is kept."""
    averaged, _ = lae()
    plain = Experiment(make_recipe(stream=CLASS))
    for experiment in (averaged, plain):
        experiment.strategy.train_experience(0)
    mine, other = averaged.manager.counts("task0"), plain.manager.counts("task0")
    assert mine.total == other.total and mine.buffers == other.buffers + other.method
    assert mine.method == sum(value.numel() for value in offline(averaged).values())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sharing": "shared"}, "LAE keeps two copies .* sharing='averaged' for method 'lora', not 'shared'"),
    ({"stream": {**CLASS, "num_tasks": 10}}, "task 'task0' has one class alone"),
    ({"plugins": [{"type": "LAE"}, {"type": "ReplayPlugin"}]}, "leave out plugin 'ReplayPlugin'"),
    ({"plugins": [{"type": "EWCPlugin", "ewc_lambda": 1.0}, {"type": "LAE"}]}, "leave out plugin 'EWCPlugin'"),
    ({"plugins": []}, "sharing 'averaged' needs a plugin that moves the average"),
    (
        {"sharing": "shared", "plugins": [{"type": "ReplayPlugin"}], "training": {"loss": "local_cross_entropy"}},
        "local_cross_entropy' sees the classes of the current task alone, but plugin 'ReplayPlugin'",
    ),
    (
        {"sharing": "shared", "plugins": [], "stream": {**CLASS, "num_tasks": 10}}
        | {"training": {"loss": "local_cross_entropy"}},
        "task 'task0' has one class alone",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_is_said_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        lae(**changes)
    assert "\n" not in str(caught.value)


def test_over_any_shared_method() -> None:
    for method in ("prefix_tuning", "ssf", "vpt_shallow"):
        options = {"calibrated": True} if method == "prefix_tuning" else {}
        experiment, _ = lae(method={"name": method, **options})
        for index in range(2):
            experiment.strategy.train_experience(index)
        assert set(offline(experiment)) == set(shared(experiment))
