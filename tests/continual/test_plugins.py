"""Avalanche's own plugins with every method, our metric against Avalanche's, and the size of EWC's memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import make_recipe

from mtpeft.continual.experiment import Experiment
from mtpeft.continual.plugins import build_plugins
from mtpeft.continual.strategy import ContinualStrategy
from mtpeft.methods import METHODS
from mtpeft.testing.case import Case

PLUGINS: dict[str, dict[str, Any]] = {
    "EWCPlugin": {"ewc_lambda": 1.0},
    "LwFPlugin": {"alpha": 1.0, "temperature": 2.0},
    "ReplayPlugin": {"mem_size": 10},
    "SynapticIntelligencePlugin": {"si_lambda": 1.0},
    "AGEMPlugin": {"patterns_per_experience": 8, "sample_size": 8},
    "EarlyStoppingPlugin": {"patience": 1, "val_stream_name": "test_stream"},
}
ON_A_PLAIN_VIT = [name for name in METHODS if Case(name, "vit").claimed()]
STREAM = {**make_recipe()["stream"], "train_per_class": 4, "test_per_class": 4}
OPTIONS: dict[str, dict[str, Any]] = {"vp": {"prompt_size": 4}, "lst": {"reduction": 4}}


def three_experiences(method: str, plugin: str, kind: str) -> tuple[Experiment, ContinualStrategy]:
    """Train three experiences; shared weights where the stream needs them, and what the method has where it has one."""
    sharing = "shared" if kind == "class_incremental" or method == "full" else "per_task"
    if METHODS.get(method).stream:
        sharing = None
    epochs = {"epochs": 1, "batch_size": 8}
    if plugin == "EarlyStoppingPlugin":
        epochs["eval_every"] = 1
    recipe = make_recipe(
        method={"name": method, **OPTIONS.get(method, {})},
        sharing=sharing,
        stream={**STREAM, "type": kind},
        training=epochs,
    )
    experiment = Experiment(recipe)
    strategy = ContinualStrategy(
        model=experiment.model,
        stream=experiment.stream,
        training=experiment.training,
        plugins=build_plugins([{"type": plugin, **PLUGINS[plugin]}]),
    )
    for index in range(3):
        strategy.train_experience(index)
    return experiment, strategy


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize("method", ON_A_PLAIN_VIT)
def test_every_method_with_every_plugin(method: str, plugin: str) -> None:
    """The run ends with finite weights, the frozen backbone untouched; half of the grid is class-incremental.

    Methods with a stream of each task's own need the task.
    """
    odd = (sorted(METHODS).index(method) + list(PLUGINS).index(plugin)) % 2 and not METHODS.get(method).stream
    experiment, strategy = three_experiences(method, plugin, "class_incremental" if odd else "task_incremental")
    assert all(p.isfinite().all() for p in experiment.model.parameters())
    assert experiment.manager.own_weights or experiment.manager.backbone_unchanged()
    value, samples = strategy.measure(2)
    assert 0.0 <= value <= 100.0 and samples == 8


def test_ewc_keeps_trained_weights_only() -> None:
    experiment, strategy = three_experiences("lora", "EWCPlugin", "class_incremental")
    plugin = next(p for p in strategy.plugins if type(p).__name__ == "EWCPlugin")
    kept = sum(d.data.numel() for d in plugin.saved_params[2].values())
    assert kept == sum(p.numel() for p in experiment.model.parameters())
    assert kept < 0.05 * sum(p.numel() for p in experiment.manager.backbone.parameters())


def test_our_accuracy_is_avalanches() -> None:
    """The same evaluations through Avalanche's accuracy and forgetting metrics."""
    from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
    from avalanche.training.plugins import EvaluationPlugin

    from mtpeft.evaluation import compute_measures

    experiment = Experiment(make_recipe())
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True), forgetting_metrics(experience=True))
    strategy = ContinualStrategy(
        model=experiment.model, stream=experiment.stream, training=experiment.training, evaluator=evaluator
    )
    experiment.strategy = strategy
    for i in range(5):
        strategy.train_experience(i)
        experiment._evaluate_row(i)
        last = strategy.eval(strategy.benchmark.test_stream)
        for j in range(5):
            key = f"Top1_Acc_Exp/eval_phase/test_stream/Task{j:03d}/Exp{j:03d}"
            assert 100 * last[key] == pytest.approx(experiment.measured.matrix[i, j])
    measures = {m.name: m.value for m in compute_measures(experiment.measured.matrix, experiment.measured.reference)}
    for j, value in enumerate(measures["forgetting_per_task"][:4]):  # type: ignore[index, arg-type]
        # Avalanche compares with the value right after training a task, we with the best one since then
        first = experiment.measured.matrix[j, j] - experiment.measured.matrix[4, j]
        key = f"ExperienceForgetting/eval_phase/test_stream/Task{j:03d}/Exp{j:03d}"
        assert 100 * last[key] == pytest.approx(first)
        assert value >= first - 1e-9  # type: ignore[operator]


def test_mixed_labels_are_one_pass() -> None:
    """A batch of several tasks (as replay makes) equals each task alone."""
    experiment = Experiment(make_recipe(method={"name": "lora", "rank": 4}, sharing="per_task"))
    for parameter in experiment.model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    experiment.model.eval()
    x, labels = torch.randn(6, 3, 32, 32), torch.tensor([3, 0, 3, 1, 0, 3])
    mixed = experiment.model(x, labels)
    alone = torch.cat([experiment.model(x[i : i + 1], labels[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(mixed, alone, atol=1e-5, rtol=1e-5)
