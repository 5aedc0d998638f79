"""SD-LoRA as a stream trains it: sharing `accumulated` with magnitudes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import train

import mtpeft
from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError

CLASS = {**make_recipe()["stream"], "type": "class_incremental", "test_per_class": 4}
LOCAL = {**make_recipe()["training"], "loss": "local_cross_entropy"}


def sd_lora(**changes: Any) -> dict[str, Any]:
    sharing = {"name": "accumulated", "magnitudes": 0.8}
    return make_recipe(**{"stream": CLASS, "sharing": sharing, "training": LOCAL, **changes})


def test_directions_stay_and_magnitudes_move() -> None:
    experiment = Experiment(sd_lora())
    experiment.strategy.train_experience(0)
    before = {n: t.clone() for n, t in experiment.manager.trained_state().items() if ".joined." in n}
    experiment.strategy.train_experience(1)
    after = experiment.manager.trained_state()
    assert before and all(torch.equal(after[n], t) for n, t in before.items())
    scalars = [t.item() for n, t in after.items() if ".magnitudes." in n]
    assert len(scalars) == 2 and all(abs(value - 0.8) > 1e-4 for value in scalars)


def test_a_killed_run_ends_the_same_and_is_loaded(tmp_path: Path) -> None:
    experiment, _ = train(sd_lora(), tmp_path / "whole")
    for kill_at in (7, 3):
        assert train(sd_lora(), tmp_path / "killed", kill_at)[1] is None
    assert train(sd_lora(), tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    manager, loaded = experiment.manager.eval(), mtpeft.load_run(tmp_path / "whole", "cpu").manager.eval()
    data: Any = experiment.stream[0].test
    images, _ = data.batch(range(8))
    with torch.no_grad():
        assert torch.equal(loaded(images, "task4"), manager(images, "task4"))
        plain: Any = manager.merge("task4").eval()
        torch.testing.assert_close(plain(images), manager(images, "task4"), atol=1e-4, rtol=1e-4)


def test_a_stream_must_bring_its_tasks() -> None:
    changes = {"stream": make_recipe()["stream"], "training": make_recipe()["training"]}
    with pytest.raises(ConfigError, match="each task brings weights as it comes") as caught:
        Experiment(sd_lora(**changes))
    assert "\n" not in str(caught.value)
