"""Runs whose methods see the training data of a task before its first step: killed and started again, the same results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import Killed, train

from mtpeft.continual.experiment import Experiment
from mtpeft.manager.loading import load
from mtpeft.manager.manager import TaskManager
from mtpeft.methods import METHODS
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress
from mtpeft.runs.state import State

CLASS = {**make_recipe()["stream"], "type": "class_incremental"}
DOMAINS = {
    "type": "domain_incremental",
    "data": {"type": "Digits"},
    "domains": [{"type": "rotation", "degrees": d} for d in (0, 30, 60)],
    "train_per_class": 6,
    "test_per_class": 4,
}
LAST = {"blocks": [-1]}
RUNS: dict[str, dict[str, Any]] = {
    "weights per task": {"method": {"name": "sct", "num_channels": 16}, "sharing": "per_task"},
    "shared weights": {"method": {"name": "gps"}, "sharing": "shared"},
    "class-incremental": {"method": {"name": "gps", "selection": "task"}, "stream": CLASS},
    "class-incremental, lae": {
        "method": {"name": "sct"},
        "stream": CLASS,
        "sharing": "averaged",
        "plugins": [{"type": "LAE", "momentum": 0.9}],
    },
    "domain-incremental": {"method": {"name": "sct"}, "stream": DOMAINS, "sharing": "shared"},
    "two methods, two rates, a cache": {
        "method": [
            {"name": "sct", **LAST, "sharing": "per_task"},
            {"name": "lora", "rank": 2, "lr_ratio": 4.0, **LAST, "sharing": "per_task"},
            {"name": "gps", "sites": ["fc2"], **LAST, "sharing": "per_task"},
        ],
        "sharing": None,
    },
    "a side network": {
        "method": {"name": "lst", "reduction": 4, "init": "fisher", "fisher_samples": 5},
        "sharing": "per_task",
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_killed_run_ends_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed inside the first task and once more behind it, off the interval; the last start fits what was not yet fitted."""
    recipe = make_recipe(**RUNS[name])
    if "cache" in name:
        recipe["cache"] = {"features": True, "folder": str(tmp_path / "rows")}
    fits = counted(monkeypatch)
    _, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    alone = recipe["sharing"] == "per_task" or isinstance(recipe["method"], list)
    asking = 2 if isinstance(recipe["method"], list) else 1
    assert len(fits) == asking * (5 if alone else 1)
    fits.clear()
    for kill_at in (3, 5):
        assert train(recipe, tmp_path / "killed", kill_at)[1] is None
    _, resumed = train(recipe, tmp_path / "killed")
    assert resumed is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    assert len(fits) == asking * (5 if alone else 1)  # a task-known stream is measured, and so fitted, before it begins
    first, second = (load(tmp_path / run / "model", backbone(recipe)) for run in ("whole", "killed"))
    torch.testing.assert_close(first.trained_state(), second.trained_state(), rtol=0, atol=0)
    assert not any(first.needs_fit(task) for task in first.tasks)


def test_a_task_that_was_fitted_is_not_one_that_was_trained(tmp_path: Path) -> None:
    """Reference measures fit all tasks first; Avalanche's plugins ask which ones the model has learned."""
    known: list[set[int]] = []
    recipe = make_recipe(**RUNS["shared weights"])
    experiment = Experiment(recipe, Progress(step=lambda: known.append(set(experiment.model.known_train_tasks_labels))))
    place = RunFolder(tmp_path / "run", recipe)
    with place.session():
        experiment.run(place)
    assert known[0] == {0} and known[-1] == {0, 1, 2, 3, 4}


def test_a_run_killed_in_the_middle_of_a_fit_fits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class-incremental: the fit comes after the state was saved once; what the method had begun to choose is gone."""
    recipe = make_recipe(**RUNS["class-incremental"])
    _, whole = train(recipe, tmp_path / "whole")
    own = METHODS.get("gps").module.fit

    def dies(config: Any, modules: Any, data: Any) -> None:
        own(config, modules, data)
        raise Killed

    monkeypatch.setattr(METHODS.get("gps").module, "fit", staticmethod(dies))
    assert train(recipe, tmp_path / "killed")[1] is None
    assert State(tmp_path / "killed/checkpoints").read()["position"] == {"experience": 0, "epoch": 0, "batch": 0}
    monkeypatch.setattr(METHODS.get("gps").module, "fit", staticmethod(own))
    assert train(recipe, tmp_path / "killed")[1] == whole


def test_a_later_task_is_fitted_to_its_own_images(tmp_path: Path) -> None:
    """The channels that a run chose are those that the manager's own `fit` chooses by each task's images."""
    recipe = make_recipe(method={"name": "sct", "sites": ["q", "v"], "num_channels": 12}, sharing="per_task")
    experiment, _ = train(recipe, tmp_path / "run")
    fresh = Experiment(recipe)
    choices = set()
    for index, task in enumerate(fresh.stream):
        assert fresh.manager.needs_fit(task.name)
        data = task.train.plain()
        images, labels = data.batch(range(len(data)))
        fresh.manager.fit(task.name, [(images, labels)])
        banks = [made.manager.methods[0].weights.bank(task.name) for made in (experiment, fresh)]
        for key, site in banks[0].sites.items():
            assert torch.equal(site.channels, banks[1].sites[key].channels), index
        choices.add(tuple(tuple(site.channels.tolist()) for site in banks[0].sites.values()))
    assert len(choices) == len(fresh.stream)


@pytest.mark.parametrize("sharing", ["per_task", "shared"])
def test_tasks_added_to_a_finished_run(sharing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tasks, then five: old weights stay as they were fitted, and all ends as if there had been five from the start."""
    method = [{"name": "sct"}, {"name": "lora", "rank": 2, "lr_ratio": 4.0}]
    recipe = make_recipe(method=method, sharing=sharing)
    _, whole = train(recipe, tmp_path / "whole")
    train({**recipe, "stream": {**recipe["stream"], "first": 3}}, tmp_path / "short")
    fits = counted(monkeypatch)
    _, grown = train({**recipe, "continue_from": str(tmp_path / "short")}, tmp_path / "grown")
    assert whole is not None and grown is not None
    assert fits == (["task3", "task4"] if sharing == "per_task" else ["task0"])
    assert grown["reference"] == whole["reference"] and grown["curves"] == whole["curves"]
    assert grown["matrix"]["values"][-1] == whole["matrix"]["values"][-1]


def test_a_plan_needs_no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtpeft.continual.plan import runs
    from mtpeft.runs.plan import measure

    fits = counted(monkeypatch)
    for name in ("weights per task", "class-incremental", "a side network"):
        (run,) = runs(make_recipe(**RUNS[name]))
        assert measure(run, None)["weights"]["trained"] > 0
    assert not fits


def test_both_rates_are_in_the_optimiser_and_in_a_resumed_one(tmp_path: Path) -> None:
    recipe = make_recipe(method={"name": "lora", "rank": 2, "lr_ratio": 4.0})
    assert train(recipe, tmp_path / "run", kill_at=3)[1] is None
    experiment = Experiment(recipe)
    seen: list[dict[str, float]] = []

    def note() -> None:
        names = {p: n for n, p in experiment.manager.trainable_parameters()}
        groups = experiment.strategy.optimizer.param_groups
        seen.append({names[p].rsplit(".", 1)[-1]: group["lr"] for group in groups for p in group["params"]})

    experiment.progress.step = note
    from mtpeft.runs.folder import RunFolder

    assert experiment.run(RunFolder(tmp_path / "run", recipe)) is not None
    assert len(seen) == 18
    assert all(rates["lora_B"] == pytest.approx(4 * rates["lora_A"]) for rates in seen)
    assert {rates["lora_A"] for rates in seen} == {rates["weight"] for rates in seen}
    logged = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "resume" for event in logged) == 1


def backbone(recipe: dict[str, Any]) -> Any:
    """The untouched backbone of a run."""
    return Experiment(recipe).manager.detach()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that are fitted from now on, a name for every method that is."""
    found: list[str] = []
    own = TaskManager.fit

    def fit(self: TaskManager, name: str, loader: Any, loss: Any = None) -> None:
        found.extend(name for attachment in self.methods if attachment.needs_fit(name))
        own(self, name, loader, loss)

    monkeypatch.setattr(TaskManager, "fit", fit)
    return found
