"""Whole continual runs: what they measure, how few evaluations they need, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_recipe import make_recipe
from small_runs import train

from mtpeft.continual.experiment import Experiment
from mtpeft.continual.strategy import ContinualStrategy
from mtpeft.errors import ConfigError, DataError, MtpeftError, UnknownNameError
from mtpeft.runs.folder import RunFolder

CLASS = {**make_recipe()["stream"], "type": "class_incremental"}
PER_TASK = {"method": {"name": "adaptformer", "bottleneck_dim": 4, "scale": 1.0}, "sharing": "per_task"}


def test_isolated_tasks_are_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same matrix from 2T evaluations (T of them the random-init reference) instead of T + T^2; no forgetting."""
    quick, results = train(make_recipe(**PER_TASK), tmp_path / "quick")
    assert quick.manager.isolated and quick.evaluations == 10
    monkeypatch.setattr(type(quick.manager), "isolated", property(lambda self: False))
    slow, _ = train(make_recipe(**PER_TASK), tmp_path / "slow")
    assert slow.evaluations == 30
    np.testing.assert_array_equal(quick.measured.matrix.values, slow.measured.matrix.values)
    np.testing.assert_array_equal(quick.measured.matrix.samples, slow.measured.matrix.samples)
    measures = {m["name"]: m["value"] for m in results["measures"]}  # type: ignore[index]
    assert measures["average_forgetting"] == 0.0 and measures["backward_transfer"] == 0.0


def test_class_incremental_heads_grow(tmp_path: Path) -> None:
    """Row i has entries up to i, the head has two classes more each time, and the upper triangle stays empty."""
    experiment, results = train(make_recipe(stream=CLASS), tmp_path / "run")
    assert results is not None
    empty = np.isnan(experiment.measured.matrix.values)
    np.testing.assert_array_equal(empty, np.triu(np.ones((5, 5), bool), 1))
    logits = experiment.model(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))
    assert logits.shape == (2, 10)
    assert results["parameters"]["head"] == 10 * 129


def test_training_learns_and_leaves_the_backbone(tmp_path: Path) -> None:
    recipe = make_recipe(
        training={**make_recipe()["training"], "epochs": 20, "optimizer": {"type": "AdamW", "lr": 0.01}}
    )
    experiment, results = train(recipe, tmp_path / "run")
    assert results is not None
    losses = [point["loss"] for point in results["curves"]["train_loss"] if point["task"] == "task0"]
    assert losses[-1] < 0.7 * losses[0]
    assert results["frozen"]["unchanged"]
    assert experiment.measured.matrix[0, 0] >= 70.0


def test_full_fine_tuning_changes_the_backbone_and_says_so(tmp_path: Path) -> None:
    _, results = train(make_recipe(method="full"), tmp_path / "run")
    assert results is not None and not results["frozen"]["unchanged"]
    assert results["parameters"]["method"] == results["parameters"]["backbone"]


def test_domain_incremental(tmp_path: Path) -> None:
    stream = {
        "type": "domain_incremental",
        "data": {"type": "Digits"},
        "domains": [{"type": "none"}, {"type": "rotation", "degrees": 90}, {"type": "contrast", "factor": 0.3}],
        "train_per_class": 4,
        "test_per_class": 4,
    }
    experiment, results = train(make_recipe(stream=stream), tmp_path / "run")
    assert results is not None
    assert not np.isnan(experiment.measured.matrix.values).any()
    assert experiment.manager.tasks == [experiment.stream[0].name]


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    first, again = (train(make_recipe(), tmp_path / name)[1] for name in ("a", "b"))
    other = train(make_recipe(seed=4), tmp_path / "c")[1]
    assert first == again
    assert first["curves"] != other["curves"]  # type: ignore[index]


def test_order_of_events(tmp_path: Path) -> None:
    """The exact calls of one experience: two epochs of two batches."""
    from avalanche.training.plugins import SupervisedPlugin

    seen: list[str] = []

    class Recorder(SupervisedPlugin):
        pass

    for name in [n for n in dir(SupervisedPlugin) if n.startswith(("before_", "after_"))]:
        setattr(Recorder, name, lambda self, strategy, _name=name, **kwargs: seen.append(_name))
    experiment = Experiment(make_recipe())
    strategy = ContinualStrategy(
        model=experiment.model, stream=experiment.stream, training=experiment.training, plugins=[Recorder()]
    )
    strategy.train_experience(0)
    step = [
        "before_training_iteration", "before_forward", "after_forward", "before_backward", "after_backward",
        "before_update", "after_update", "after_training_iteration",
    ]  # fmt: skip
    epoch = ["before_training_epoch", *step, *step, "after_training_epoch"]
    begin = [
        "before_training",
        "before_train_dataset_adaptation",
        "after_train_dataset_adaptation",
        "before_training_exp",
    ]
    assert seen == [*begin, *epoch, *epoch, "after_training_exp", "after_training"]


def test_a_run_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(make_recipe(), tmp_path / "run")
    content = (tmp_path / "run/results.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a run of another recipe"):
        RunFolder(tmp_path / "run", make_recipe(seed=5))
    assert (tmp_path / "run/results.json").read_bytes() == content
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is no run folder"):
        RunFolder(tmp_path / "other", make_recipe())


BAD: list[tuple[dict[str, Any], type[MtpeftError], str]] = [
    ({"trainig": {}}, ConfigError, "recipe small: nothing reads the key trainig. Did you mean 'training'"),
    ({"training": {"epoch": 3}}, ConfigError, "nothing reads the key training.epoch. Did you mean 'epochs'"),
    ({"method": {"name": "lorra"}}, UnknownNameError, "unknown method 'lorra'. Did you mean 'lora'"),
    ({"method": {"name": "lora", "rnk": 4}}, ConfigError, "method 'lora' takes no option 'rnk'. Did you mean 'rank'"),
    ({"sharing": "hared"}, UnknownNameError, "unknown sharing 'hared'. Did you mean 'shared'"),
    ({"backbone": {"name": "vit_mini_patch4_23"}}, UnknownNameError, "Did you mean 'vit_mini_patch4_32'"),
    (
        {"stream": CLASS, "sharing": "per_task"},
        ConfigError,
        "weights cannot be per task, as those of method 'lora' are",
    ),
    ({"stream": CLASS, "sharing": "polyhistor"}, ConfigError, "weights cannot be per task"),
    ({"stream": CLASS, "sharing": None, "method": "mtlora"}, ConfigError, "cannot be per task, .* 'mtlora' are"),
    ({"plugins": [{"type": "EWC"}]}, UnknownNameError, "unknown plugin 'EWC'"),
    ({"plugins": [{"type": "LAE", "momentm": 0.9}]}, ConfigError, "takes no option 'momentm'. Did you mean 'momentum'"),
    ({"training": {"optimizer": {"type": "AdamW", "lrr": 1}}}, ConfigError, "AdamW takes no 'lrr'. Did you mean 'lr'"),
    ({"training": {"schedule": "cosin"}}, ConfigError, "training.schedule is 'cosin', expected one of .*cosine"),
    ({"stream": {**CLASS, "num_tasks": 3}}, DataError, "3"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_recipes(change: dict[str, Any], error: type[MtpeftError], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        Experiment(make_recipe(**change))
    assert "\n" not in str(caught.value)


def test_misspelt_hooks_are_refused() -> None:
    from avalanche.training.plugins import SupervisedPlugin

    class Plugin(SupervisedPlugin):
        def before_forwrd(self, strategy: Any, **kwargs: Any) -> None:
            return None

    experiment = Experiment(make_recipe())
    with pytest.raises(ConfigError, match=r"'before_forwrd' is no event\. Did you mean 'before_forward'"):
        ContinualStrategy(
            model=experiment.model, stream=experiment.stream, training=experiment.training, plugins=[Plugin()]
        )


def test_lae_wants_shared_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LAE keeps two copies of the weights that all tasks share"):
        train(make_recipe(**PER_TASK, plugins=[{"type": "LAE"}]), tmp_path / "run")


def test_a_diverging_run_stops_and_keeps_its_state(tmp_path: Path) -> None:
    recipe = make_recipe(training={**make_recipe()["training"], "optimizer": {"type": "SGD", "lr": 1e30}})
    with pytest.raises(MtpeftError, match=r"task 'task0', step 2: the loss is .*lower the learning rate"):
        train(recipe, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/state.json").exists() and not (tmp_path / "run/results.json").exists()
