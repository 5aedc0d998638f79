"""Alignment of the head against the formulas of SLCA and SSIAT, and what it leaves to training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aligning import LOCAL, SLCA, SSIAT, STREAM, aligned
from small_recipe import make_recipe
from torch.nn import functional as F

from mtpeft.continual.alignment import ClassifierAlignment, features_of
from mtpeft.continual.experiment import Experiment
from mtpeft.data.loader import mix
from mtpeft.heads import GrowingHead
from mtpeft.runs.update import NonFiniteLossError


def head_state(experiment: Experiment) -> dict[str, torch.Tensor]:
    manager = experiment.manager
    return {name: tensor.clone() for name, tensor in manager.head(manager.tasks[-1]).state_dict().items()}


def shown(experiment: Experiment, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of a task's training images, in their own order, as the model sees them now."""
    manager, data = experiment.manager, experiment.stream[index].train.plain()
    images, labels = data.batch(range(len(data)))
    with torch.no_grad():
        found = manager.eval().features(images, manager.tasks[-1])
    manager.train()
    return found, labels


def test_the_loss_divides_logits_by_the_mean_norm_of_a_tasks() -> None:
    """SLCA's: -log softmax(z / (tau * mean_t |z_t|)), image by image."""
    torch.manual_seed(0)
    head = GrowingHead(6)
    head.grow("a", 2)
    head.grow("b", 3)
    head.double()
    features, labels = torch.randn(7, 6, dtype=torch.float64), torch.tensor([0, 4, 2, 1, 3, 3, 0])
    expected = []
    for f, label in zip(features, labels.tolist(), strict=True):
        parts = [head.part(task).weight @ f + head.part(task).bias for task in "ab"]  # type: ignore[union-attr, operator]
        norms = [sum(z**2 for z in part) ** 0.5 + 1e-7 for part in parts]
        z = torch.cat(parts) / (0.1 * (norms[0] + norms[1]) / 2)
        expected.append(z.exp().sum().log() - z[label])
    found = ClassifierAlignment(temperature=0.1).loss(head, features, labels)
    torch.testing.assert_close(found, torch.stack(expected).mean(), atol=1e-9, rtol=1e-12)
    plain = ClassifierAlignment(temperature=None).loss(head, features, labels)
    torch.testing.assert_close(plain, F.cross_entropy(head(features), labels), atol=1e-12, rtol=0)


def test_two_steps_of_the_head_by_hand() -> None:
    """Features from N(g m, S), g = 0.9 + 0.1 (t_c + 1) / (t + 1); the gradient (p - y) f; momentum; half a cosine; decay of W."""
    torch.manual_seed(0)
    plugin = ClassifierAlignment(samples=4, epochs=2, lr=0.3, batch_size=100, weight_decay=0.1, temperature=None)
    generator = torch.Generator().manual_seed(9)
    rows, labels = torch.randn(30, 3, generator=generator), torch.arange(30) % 3
    plugin.statistics.add(rows, labels)
    head = GrowingHead(3)
    head.grow("a", 1)
    head.grow("b", 2)
    weight = torch.cat([head.part(t).weight.detach().double() for t in "ab"])  # type: ignore[union-attr, operator]
    bias = torch.zeros(3, dtype=torch.float64)
    plugin.align(head, seed=5, task=1)
    numbers = torch.Generator().manual_seed(mix(5, "alignment", 1))
    velocity, push = torch.zeros_like(weight), torch.zeros_like(bias)
    for rate in (0.3, 0.15):  # 0.3 * (1 + cos(pi e / 2)) / 2
        drawn, target = [], torch.arange(3).repeat_interleave(4)
        for label, shrink in ((0, 0.95), (1, 1.0), (2, 1.0)):  # tasks 0, 1, 1 of two
            own = rows[labels == label].double()
            factor = torch.linalg.cholesky(own.T.cov() + 1e-4 * torch.eye(3))
            drawn.append(shrink * own.mean(0) + torch.randn(4, 3, generator=numbers).double() @ factor.T)
        torch.randperm(12, generator=numbers)
        f = torch.cat(drawn)
        error = ((f @ weight.T + bias).softmax(1) - F.one_hot(target, 3)) / 12
        velocity = 0.9 * velocity + error.T @ f + 0.1 * weight
        push = 0.9 * push + error.sum(0)
        weight, bias = weight - rate * velocity, bias - rate * push
    found = torch.cat([head.part(t).weight for t in "ab"])  # type: ignore[union-attr, misc]
    torch.testing.assert_close(found.detach().double(), weight, atol=1e-6, rtol=0)
    found = torch.cat([head.part(t).bias for t in "ab"])  # type: ignore[union-attr, misc]
    torch.testing.assert_close(found.detach().double(), bias, atol=1e-6, rtol=0)
    assert all(p.grad is None for p in head.parameters())


def test_means_and_covariances_are_those_of_the_images_as_tested() -> None:
    """Of the task's training images under the model as it is when the task ends; those of earlier tasks stay."""
    experiment, plugin = aligned(SLCA, augment={"scale": [0.3, 1.0], "flip": True})
    experiment.strategy.train_experience(0)
    old = {label: mean.clone() for label, mean in plugin.statistics.means.items()}
    experiment.strategy.train_experience(1)
    features, labels = shown(experiment, 1)
    assert sorted(plugin.statistics.means) == [0, 1, 2, 3]
    for label in (2, 3):
        own = features[labels == label].double()
        torch.testing.assert_close(plugin.statistics.means[label].double(), own.mean(0), atol=1e-5, rtol=0)
        expected = own.T.cov() + 1e-4 * torch.eye(own.shape[1])
        torch.testing.assert_close(plugin.statistics.covariance_of(label).double(), expected, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(plugin.statistics.means[label], mean) for label, mean in old.items())


def test_means_drift_with_the_new_tasks_features() -> None:
    """The features of one order of images, before and after the task; the formula once more."""
    experiment, plugin = aligned(SSIAT)
    strategy = experiment.strategy
    strategy.train_experience(0)
    old = {label: mean.double() for label, mean in plugin.statistics.means.items()}
    before = shown(experiment, 1)[0].double()
    strategy.train_experience(1)
    after = shown(experiment, 1)[0].double()
    assert (after - before).abs().max() > 1e-3
    for label, mean in old.items():
        weights = (-(before - mean).square().sum(1) / (2 * 0.5**2)).exp() + 1e-5
        moved = mean + (weights[:, None] * (after - before)).sum(0) / weights.sum()
        torch.testing.assert_close(plugin.statistics.means[label].double(), moved, atol=1e-5, rtol=0)
        assert (moved - mean).abs().max() > 1e-3
    assert plugin.earlier is None


def test_features_come_in_one_order() -> None:
    experiment, _ = aligned(SLCA)
    strategy = experiment.strategy
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    strategy.on_step = lambda: seen.extend((features_of(strategy), features_of(strategy)))
    strategy.train_experience(0)
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[-1][1])
    assert not torch.equal(seen[0][0], seen[-1][0]) and experiment.manager.training


def test_features_of_clips_are_means_over_their_views() -> None:
    """Two views of every clip, as in a test."""
    data = {
        "type": "motion",
        "groups": ["pan", "zoom"],
        "train_per_class": 2,
        "test_per_class": 2,
        "frames": 2,
        "size": 32,
    }
    stream = {"type": "class_incremental", "data": {**data, "crops": 3}, "num_tasks": 2}
    experiment, plugin = aligned(SLCA, stream=stream, training={"epochs": 1, "batch_size": 4})
    experiment.strategy.train_experience(0)
    manager, clips = experiment.manager.eval(), experiment.stream[0].train.plain()
    views, labels = clips.batch(range(len(clips)))
    assert views.ndim == 6 and views.shape[1] == 3
    with torch.no_grad():
        each = torch.stack([manager.features(views[:, view], "task0") for view in range(3)]).double()
    for label in (0, 1):
        own = each[:, labels == label].mean((0, 1))
        torch.testing.assert_close(plugin.statistics.means[label].double(), own, atol=1e-5, rtol=0)


def test_an_alignment_that_diverges_is_told() -> None:
    experiment, _ = aligned({**SLCA, "lr": 1e30, "temperature": None})
    experiment.strategy.train_experience(0)
    with pytest.raises(NonFiniteLossError, match=r"the loss of aligning the head is .*; lower lr of plugin"):
        experiment.strategy.train_experience(1)


@pytest.mark.parametrize("restore", [True, False])
def test_training_goes_on_from_the_head_it_left_or_from_the_aligned_one(restore: bool) -> None:
    experiment, plugin = aligned({**SLCA, "restore": restore})
    plain = Experiment(make_recipe(stream=STREAM, training=LOCAL))
    for one in (experiment, plain):
        torch.manual_seed(0)
        one.strategy.train_experience(0)
    assert all(torch.equal(tensor, head_state(plain)[name]) for name, tensor in head_state(experiment).items())
    states = []
    for one in (experiment, plain):
        torch.manual_seed(0)
        one.strategy.train_experience(1)
        states.append(head_state(one))
    predicts, trained = states
    assert all(not torch.equal(tensor, trained[name]) for name, tensor in predicts.items())
    if restore:  # alignment has changed nothing for training
        assert plugin.trained is not None and plugin.trained.keys() == trained.keys()
        assert all(torch.equal(tensor, trained[name]) for name, tensor in plugin.trained.items())
    begun: list[dict[str, torch.Tensor]] = []
    own = experiment.strategy._before_training_exp

    def begin(**kwargs: Any) -> None:
        begun.append(head_state(experiment))
        own(**kwargs)

    experiment.strategy._before_training_exp = begin  # type: ignore[method-assign]
    experiment.strategy.train_experience(2)
    for name, tensor in (trained if restore else predicts).items():
        assert torch.equal(begun[0][name], tensor)
    assert begun[0].keys() > trained.keys()


def test_other_plugins_see_the_trained_head() -> None:
    """Whatever their place in the list: what EWC holds is what it would hold without alignment."""
    ewc = {"type": "EWCPlugin", "ewc_lambda": 10.0}
    saved = []
    for plugins in ([ewc], [SLCA, ewc], [ewc, SLCA]):
        experiment = Experiment(make_recipe(stream=STREAM, plugins=plugins))
        for index in range(2):
            torch.manual_seed(0)
            experiment.strategy.train_experience(index)
        held = next(p for p in experiment.strategy.plugins if type(p).__name__ == "EWCPlugin")
        saved.append({name: param.data.clone() for name, param in held.saved_params[1].items()})
    assert saved[0].keys() == saved[1].keys() == saved[2].keys()
    assert all(torch.equal(saved[0][n], saved[1][n]) and torch.equal(saved[0][n], saved[2][n]) for n in saved[0])


@pytest.mark.parametrize("changes", [{"sharing": "averaged"}, {"method": "full"}, {"method": "linear_probe"}])
def test_over_any_sharing_that_serves_all_tasks(changes: dict[str, Any]) -> None:
    plugins = [SLCA] if "method" in changes else [SLCA, {"type": "LAE", "momentum": 0.9}]
    experiment, plugin = aligned(SLCA, **changes, plugins=plugins)
    for index in range(2):
        experiment.strategy.train_experience(index)
    assert plugin.trained is not None
    assert all(tensor.isfinite().all() for tensor in head_state(experiment).values())


@pytest.mark.parametrize("kind", ["linear", pytest.param("cosine", marks=pytest.mark.slow)])
def test_a_stream_that_is_forgotten_is_forgotten_less(kind: str) -> None:
    """The last block's biases and a head learnt task by task, on the embedded backbone: ten points and more of accuracy."""
    stream = {**STREAM, "first": 4, "train_per_class": 8, "test_per_class": 6}
    found = []
    for plugins in ([], [{**SLCA, "samples": 64, "epochs": 5}]):
        changes = {"backbone": {"name": "vit_mini_patch4_32"}, "method": {"name": "bitfit", "blocks": [5]}}
        training = {**LOCAL, "batch_size": 24, "optimizer": {"type": "AdamW", "lr": 1e-3}}
        head = {"head": {"name": "growing", "kind": kind}}
        experiment = Experiment(make_recipe(**changes, stream={**stream, **head}, training=training, plugins=plugins))
        for index in range(4):
            experiment.strategy.train_experience(index)
        found.append(sum(experiment.strategy.measure(index)[0] for index in range(4)) / 4)
    assert found[1] > found[0] + 10
