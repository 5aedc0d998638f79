"""Avalanche's own plugins with every method, our metric against Avalanche's, and the size of EWC's memory."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.training.plugins import EarlyStoppingPlugin
from small_recipe import make_recipe
from small_runs import train

from mtpeft.continual.allowed import ALLOWED, REFUSED
from mtpeft.continual.experiment import Experiment
from mtpeft.continual.si import SynapticIntelligence
from mtpeft.continual.strategy import ContinualStrategy
from mtpeft.errors import ConfigError
from mtpeft.methods import METHODS
from mtpeft.testing.case import Case

PLUGINS: dict[str, dict[str, Any]] = {
    "EWCPlugin": {"ewc_lambda": 1.0},
    "LwFPlugin": {"alpha": 1.0, "temperature": 2.0},
    "ReplayPlugin": {"mem_size": 10},
    "SynapticIntelligencePlugin": {"si_lambda": 1.0},
    "AGEMPlugin": {"patterns_per_experience": 8, "sample_size": 8},
    "EarlyStoppingPlugin": {"patience": 1},
    "MASPlugin": {"lambda_reg": 1.0},
}
ON_A_PLAIN_VIT = [name for name in METHODS if Case(name, "vit").claimed()]
STREAM = {**make_recipe()["stream"], "train_per_class": 4, "test_per_class": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "vp": {"prompt_size": 4},
    "evp": {"prompt_size": 4},
    "lst": {"reduction": 4},
    "vit_adapter": {"num_heads": 4},
}


def three_experiences(method: str, plugin: str, kind: str) -> tuple[Experiment, ContinualStrategy]:
    """Train three experiences; shared weights where the stream needs them, and what the method has where it has one."""
    sharing = "shared" if kind == "class_incremental" or method == "full" else "per_task"
    if METHODS.get(method).stream:
        sharing = None
    epochs = {"epochs": 1, "batch_size": 8}
    stream = {**STREAM, "type": kind}
    if plugin == "EarlyStoppingPlugin":
        epochs["eval_every"], stream["validation"] = 1, {"share": 0.25}
    recipe = make_recipe(
        method={"name": method, **OPTIONS.get(method, {})},
        sharing=sharing,
        stream=stream,
        training=epochs,
        plugins=[{"type": plugin, **PLUGINS[plugin]}],
    )
    experiment = Experiment(recipe)
    strategy = experiment.strategy
    for index in range(3):
        experiment._fit(index)
        strategy.train_experience(index)
    return experiment, strategy


#: every method with one plugin and every plugin with some methods; the rest of the grid takes minutes
PAIRS = [
    pytest.param(method, plugin, marks=() if (i - j) % len(PLUGINS) == 0 else pytest.mark.slow)
    for i, method in enumerate(ON_A_PLAIN_VIT)
    for j, plugin in enumerate(PLUGINS)
]


@pytest.mark.parametrize(("method", "plugin"), PAIRS)
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


#: a dose of each that shows within three small tasks
DOSES: dict[str, dict[str, Any]] = {
    "AGEMPlugin": {"patterns_per_experience": 8, "sample_size": 8},
    "ClassifierAlignment": {"samples": 8, "restore": False},
    "EWCPlugin": {"ewc_lambda": 100.0},
    "EarlyStoppingPlugin": {"patience": 1},
    "FirstTasks": {"number": 1},
    "InfLoRA": {"lamb": 0.9},
    "LAE": {"momentum": 0.9},
    "LwFPlugin": {"alpha": 5.0, "temperature": 2.0},
    "MASPlugin": {"lambda_reg": 10.0},
    "PerturbAndMerge": {"epsilon": 0.5},
    "PullToEarlier": {"strength": 0.3},
    "ReplayPlugin": {"mem_size": 10},
    "Supernet": {"sizes": [2, 4]},
    "SynapticIntelligencePlugin": {"si_lambda": 100.0},
}


#: how weights are shared where the plugin is left out, if not by all tasks
WITHOUT = {"InfLoRA": "accumulated", "PullToEarlier": "per_task"}


def watched(name: str) -> dict[str, Any]:
    """A recipe of three tasks with that plugin."""
    stream = {**STREAM, "type": "class_incremental", "order": list(range(10)), "train_per_class": 8}
    recipe = make_recipe(
        stream=stream, training={"epochs": 3, "batch_size": 8, "optimizer": {"type": "AdamW", "lr": 0.003}}
    )
    if ALLOWED[name].watches:
        recipe["stream"]["validation"] = {"share": 0.25}
        recipe["training"]["eval_every"] = 1
    if name == "LAE":
        recipe["sharing"] = "averaged"
    if name == "PullToEarlier":
        recipe["stream"]["type"], recipe["sharing"] = "task_incremental", "per_task"
    if name == "InfLoRA":
        recipe["sharing"] = "accumulated"
    if name == "FirstTasks":
        recipe["stream"]["head"] = {"name": "growing", "classifier": {"name": "prototypes"}}
    if name == "Supernet":
        recipe["method"] = {"name": "noah", "prompts": 4, "ranks": 4, "widths": 4}
    return recipe


def test_importances_of_si_by_hand() -> None:
    """sum(gradient * step) / (distance^2 + eps) of a task's training, sign turned and clipped; what holds the weights."""
    recipe = {**watched("SynapticIntelligencePlugin"), "method": {"name": "lora", "rank": 2}}
    recipe["plugins"] = [{"type": "SynapticIntelligencePlugin", "si_lambda": 1.0}]
    experiment = Experiment(recipe)
    strategy = experiment.strategy
    plugin = next(p for p in strategy.plugins if isinstance(p, SynapticIntelligence))
    name = next(n for n, _ in experiment.model.named_parameters() if not n.startswith("heads."))

    def weight() -> torch.Tensor:
        return dict(experiment.model.named_parameters())[name].detach().double().flatten().clone()

    start = last = weight()
    path = torch.zeros_like(start)

    def step() -> None:
        nonlocal last, path
        gradient = dict(experiment.model.named_parameters())[name].grad
        assert gradient is not None
        path = path + gradient.double().flatten() * (weight() - last)
        last = weight()

    strategy.on_step = step
    strategy.train_experience(0)
    expected = (-path / ((weight() - start) ** 2 + 1e-7)).clamp(max=0.001)
    torch.testing.assert_close(plugin.ewc_data[1][name].data.double(), expected, rtol=1e-3, atol=1e-6)
    assert expected.abs().max() > 1e-5


def trained(recipe: dict[str, Any]) -> tuple[dict[str, torch.Tensor], int]:
    """Weights after three tasks, and the number of steps."""
    experiment, steps = Experiment(recipe), [0]
    experiment.strategy.on_step = lambda: steps.__setitem__(0, steps[0] + 1)
    for index in range(3):
        experiment.strategy.train_experience(index)
    return experiment.manager.trained_state(), steps[0]


@pytest.mark.parametrize("name", ALLOWED)
def test_every_allowed_plugin_has_an_effect(name: str) -> None:
    """Three tasks with and without it end with other weights, all of them finite; early stopping with fewer steps."""
    recipe = watched(name)
    with_it, steps = trained({**recipe, "plugins": [{"type": name, **DOSES[name]}]})
    training = {key: value for key, value in recipe["training"].items() if key != "eval_every"}
    without, all_steps = trained({**recipe, "sharing": WITHOUT.get(name, "shared"), "training": training})
    assert all(value.isfinite().all() for value in with_it.values())
    assert any(not torch.equal(with_it[key], without[key]) for key in without)
    assert (steps < all_steps) == (ALLOWED[name].watches or ALLOWED[name].first)


def test_every_public_class_of_avalanche_is_allowed_or_refused() -> None:
    """A new version that brings another plugin shows here."""
    from avalanche.training import plugins

    public = {name for name, kind in vars(plugins).items() if inspect.isclass(kind)}
    own = {"ClassifierAlignment", "FirstTasks", "InfLoRA", "LAE", "PerturbAndMerge", "PullToEarlier", "Supernet"}
    assert public == (ALLOWED.keys() | REFUSED.keys()) - own
    assert not ALLOWED.keys() & REFUSED.keys()
    assert DOSES.keys() == ALLOWED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_a_plugin_that_does_not_work_is_refused_before_data_are_read(name: str) -> None:
    nowhere = {"type": "task_incremental", "data": {"type": "FashionMNIST", "root": "/nowhere"}, "num_tasks": 5}
    with pytest.raises(ConfigError) as caught:
        Experiment(make_recipe(stream=nowhere, plugins=[{"type": name}]))
    assert str(caught.value) == f"plugin {name!r} cannot be used: {REFUSED[name]}. Use one of {', '.join(ALLOWED)}"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"plugins": [{"type": "EWC"}]}, "unknown plugin 'EWC' \\(key plugins\\)"),
    ({"plugins": ["EWCPlugin"]}, "key plugins must list dict"),
    ({"plugins": [{"type": "EWCPlugin"}]}, "plugin 'EWCPlugin' needs the option 'ewc_lambda'"),
    ({"plugins": [{"type": "EWCPlugin", "ewc_lambda": 1.0, "mode": "odd"}]}, "plugin 'EWCPlugin': Mode must be"),
    ({"plugins": [{"type": "MASPlugin", "verbose": True}]}, "plugin 'MASPlugin' takes no option 'verbose'"),
    (
        {"plugins": [{"type": "EarlyStoppingPlugin", "patience": 1, "margin": 1}]},
        "'EarlyStoppingPlugin': an option has",
    ),
    (
        {"plugins": [{"type": "EarlyStoppingPlugin", "patience": 1, "val_stream_name": "test_stream"}]},
        "watches validation data alone",
    ),
    ({"plugins": [{"type": "EarlyStoppingPlugin", "patience": 1}]}, "set training.eval_every=1"),
    (
        {"plugins": [{"type": "EarlyStoppingPlugin", "patience": 1}], "training": {"eval_every": 1}},
        "never on the test part: set stream.validation=dict",
    ),
    ({"training": {"eval_every": 1}}, "never on the test part: set stream.validation=dict"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_mistakes_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Experiment(make_recipe(**changes))
    assert "\n" not in str(caught.value)


def test_early_stopping_never_sees_the_test_part() -> None:
    """Only validation data are evaluated while a task is trained, and their accuracy is the one that is watched."""
    plugins = [{"type": "EarlyStoppingPlugin", "patience": 1}]
    experiment = Experiment({**watched("EarlyStoppingPlugin"), "plugins": plugins})
    strategy = experiment.strategy
    seen: list[tuple[str, int]] = []
    before = strategy.make_eval_dataloader

    def note(**kwargs: Any) -> None:
        before(**kwargs)
        seen.append((strategy.experience.origin_stream.name, len(strategy.dataloader.loader.dataset)))

    strategy.make_eval_dataloader = note  # type: ignore[method-assign]
    strategy.train_experience(0)
    held = experiment.stream[0].validation
    assert held is not None and set(seen) == {("validation", len(held))}
    images, labels = held.plain().batch(range(len(held)))
    with torch.no_grad():
        right = (experiment.model.eval()(images, 0).argmax(1) == labels).double().mean().item()
    (plugin,) = [p for p in strategy.plugins if isinstance(p, EarlyStoppingPlugin)]
    assert plugin.best_val == pytest.approx(right)  # the weights it went back to


def test_results_tell_the_sizes(tmp_path: Path) -> None:
    """What was held out is no longer trained on; without validation data nothing is said of them."""
    stream = {**STREAM, "type": "task_incremental", "num_tasks": 2, "train_per_class": 8}
    training = {"epochs": 1, "batch_size": 16}
    _, results = train(
        make_recipe(stream={**stream, "validation": {"share": 0.25}}, training=training), tmp_path / "held"
    )
    assert results is not None
    sizes = [(t["train_samples"], t["validation_samples"], t["test_samples"]) for t in results["tasks"]]
    assert sizes == [(30, 10, 20)] * 2
    assert "validation_images" not in Experiment(make_recipe(stream=stream)).stream.describe()["tasks"][0]
