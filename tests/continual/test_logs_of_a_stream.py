"""The key `visualizer` of a continual run, and a run measured on what it holds out of its training part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_recipe import make_recipe
from small_runs import train

from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError

SMALL: dict[str, Any] = {
    "stream": {**make_recipe()["stream"], "first": 2},
    "training": {**make_recipe()["training"], "log_every": 1},
}
TENSORBOARD = [{"type": "TensorboardVisBackend"}]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{name: (step, value)} in TensorBoard's files of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs/tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_killed_run_logs_each_step_once_and_ends_the_same(tmp_path):
    """Two tasks of four steps, a state every second one; killed after steps 3 and 6. Logs leave the results alone."""
    _, plain = train(make_recipe(**SMALL), tmp_path / "plain")
    recipe = make_recipe(**SMALL, visualizer=TENSORBOARD)
    for kill_at in (3, 4):
        assert train(recipe, tmp_path / "run", kill_at)[1] is None
    _, results = train(recipe, tmp_path / "run")
    assert results == plain
    assert (tmp_path / "run/results.json").read_bytes() == (tmp_path / "plain/results.json").read_bytes()
    found = scalars(tmp_path / "run")
    assert [step for step, _ in found["loss/task0"]] == [1, 2, 3, 4]
    assert [step for step, _ in found["loss/task1"]] == [5, 6, 7, 8]
    losses = [point["loss"] for point in plain["curves"]["train_loss"]]
    assert [v for _, v in found["loss/task0"] + found["loss/task1"]] == pytest.approx(losses)
    assert [step for step, _ in found["rate"]] == list(range(1, 9)) and found["rate"][0][1] == pytest.approx(0.003)
    assert [step for step, _ in found["task0/accuracy"]] == [4, 8]
    assert [v for _, v in found["task0/accuracy"]] == pytest.approx([row[0] for row in plain["matrix"]["values"]])
    assert not (tmp_path / "plain/logs").exists(), "nothing is logged unless asked for"


def test_a_wrong_backend_is_told_before_anything_is_built():
    with pytest.raises(ConfigError, match="unknown backend 'TensorBoard'"):
        Experiment(make_recipe(visualizer=[{"type": "TensorBoard"}]))


def test_measured_on_what_is_held_out(tmp_path):
    """A quarter of 16 a class: 8 of both classes. The test part is not looked at; early stopping may have the same data."""
    held = {**SMALL["stream"], "validation": {"share": 0.25, "instead_of_test": True}}
    experiment, results = train(make_recipe(**{**SMALL, "stream": held}), tmp_path / "run")
    assert [(t["train_samples"], t["validation_samples"], t["test_samples"]) for t in results["tasks"]] == [
        (24, 8, 8)
    ] * 2
    task = experiment.stream[0]
    assert task.test.targets == task.validation.targets
    assert (task.test.batch(range(8))[0] == task.validation.plain().batch(range(8))[0]).all()
    assert results["matrix"]["samples"] == [[8, 8], [8, 8]]
