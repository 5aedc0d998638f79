"""Joint runs whose methods see the training data before the first step: killed and started again, the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from squares import Killed, make_recipe, train

from mtpeft.errors import ConfigError
from mtpeft.joint.experiment import JointExperiment
from mtpeft.manager.manager import TaskManager
from mtpeft.methods import METHODS
from mtpeft.runs.state import State

LAST = {"blocks": [-1]}
RUNS: dict[str, dict[str, Any]] = {
    "weights per task, tasks drawn": {
        "method": {"name": "gps", "selection": "task"},
        "sharing": "per_task",
        "sampler": {"name": "uniform"},
        "transforms": {"train": [{"name": "flip"}], "val": []},
    },
    "shared, missing labels": {"method": {"name": "sct"}, "data": {"missing": 3, "empty": True}},
    "two methods, two rates, a cache": {
        "method": [
            {"name": "gps", "selection": "task", "sites": ["fc2"], **LAST},
            {"name": "lora", "rank": 2, "lr_ratio": 4.0, **LAST},
        ],
        "sharing": "per_task",
        "sampler": {"name": "uniform"},
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_killed_run_ends_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 steps, a checkpoint every other one; the state is saved when the fit is over, and nothing is fitted again."""
    recipe = make_recipe(**RUNS[name])
    if "cache" in name:
        recipe["cache"] = {"features": True, "folder": str(tmp_path / "rows")}
    fits = counted(monkeypatch)
    first, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    number = 3 if recipe["sharing"] == "per_task" else 1
    assert len(fits) == number
    for kill_at, saved in ((1, 0), (3, 2), (3, 4)):
        rows = 2 if "cache" in name else 0  # looking at those of both parts is a step of the progress each
        assert train(recipe, tmp_path / "killed", rows + kill_at)[1] is None
        assert State(tmp_path / "killed/checkpoints").read()["step"] == saved
    second, results = train(recipe, tmp_path / "killed")
    assert results is not None and len(fits) == 2 * number
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    torch.testing.assert_close(first.manager.trained_state(), second.manager.trained_state(), rtol=0, atol=0)
    if "rates" in name:
        names = {p: n.rsplit(".", 1)[-1] for n, p in second.manager.trainable_parameters()}
        groups = second.optim_wrapper.optimizer.param_groups
        rates = {names[p]: group["base_lr"] for group in groups for p in group["params"]}
        assert rates["lora_B"] == pytest.approx(4 * rates["lora_A"]) and rates["lora_A"] == rates["weight"]


def test_a_run_killed_in_the_middle_of_a_fit_fits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(**RUNS["weights per task, tasks drawn"])
    _, whole = train(recipe, tmp_path / "whole")
    module, calls = METHODS.get("gps").module, []
    own = module.fit

    def dies(config: Any, modules: Any, data: Any) -> None:
        own(config, modules, data)
        calls.append(1)
        if len(calls) == 2:
            raise Killed

    monkeypatch.setattr(module, "fit", staticmethod(dies))
    assert train(recipe, tmp_path / "killed")[1] is None
    assert not State(tmp_path / "killed/checkpoints").exists
    assert train(recipe, tmp_path / "killed")[1] == whole


def test_classes_are_no_labels_of_pixels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the labels are no class numbers: selection='task'"):
        train(make_recipe(method={"name": "gps"}), tmp_path / "run")


def test_a_task_is_fitted_to_its_images_without_augmentation() -> None:
    """The images are those of evaluation, and those alone that have the task's label."""
    changes = {"data": {"missing": 2}, "transforms": {"train": [{"name": "flip"}], "val": []}}
    data = JointExperiment(make_recipe(**changes)).data
    batches = list(data.plain_batches("semseg", 5))
    images = torch.cat([batch for batch, _ in batches])
    kept = [index for index in range(12) if index % 4 != 0]
    assert len(images) == len(kept) == sum(len(labels) for _, labels in batches)
    for image, index in zip(images, kept, strict=True):
        pixels = torch.from_numpy(data.plain[0].dataset[index].image.transpose(2, 0, 1).copy()).float() / 255
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (data.mean, data.std))
        torch.testing.assert_close(image, (pixels - mean) / std)


def test_a_plan_needs_no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtpeft.joint.plan import runs
    from mtpeft.runs.plan import measure

    fits = counted(monkeypatch)
    (run,) = runs(make_recipe(**RUNS["weights per task, tasks drawn"]))
    assert measure(run, None)["weights"]["trained"] > 0 and not fits


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that are fitted from now on."""
    found: list[str] = []
    own = TaskManager.fit

    def fit(self: TaskManager, name: str, loader: Any, loss: Any = None) -> None:
        found.append(name)
        own(self, name, loader, loss)

    monkeypatch.setattr(TaskManager, "fit", fit)
    return found
