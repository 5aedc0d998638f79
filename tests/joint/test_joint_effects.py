"""Every key of a joint recipe does something, or is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from squares import make_recipe, train

from mtpeft.errors import ConfigError
from mtpeft.joint import built, experiment
from mtpeft.joint.training import Training


def test_every_training_key_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the checks of the section: by the building of a run and one of its steps."""
    seen: set[str] = set()

    class Recorded(Training):
        def __post_init__(self) -> None:
            super().__post_init__()
            seen.clear()

        def __getattribute__(self, name: str) -> Any:
            seen.add(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(built, "Training", Recorded)
    train(make_recipe(training={"steps": 2, "schedule": "poly", "eval_every": 0}), tmp_path / "run")
    assert {field.name for field in fields(Training)} - seen == set()


HEAD = {"name": "dense_linear"}
WITHOUT_EFFECT: dict[str, tuple[dict[str, Any], str]] = {
    "power": ({"training": {"power": 2.0}}, "training.power belongs to the schedule poly"),
    "temperature": ({"sampler": {"name": "uniform", "temperature": 2.0}}, "sampler.temperature has no effect"),
    "group": ({"sampler": {"name": "all", "group": 2}}, "sampler.group has no effect"),
    "head": ({"tasks": {"depth": {"head": HEAD}}}, "the key head has no effect, every task has a head of its own"),
    "baselines": ({"baselines": True}, "nothing reads the key baselines"),
    "continue_from": ({"continue_from": "run"}, "continue_from adds tasks to a continual run"),
    "pictures": ({"pictures": "many"}, "pictures is 'many', expected a whole number from 0"),
    "gradient_conflict": ({"gradient_conflict": -1}, "gradient_conflict is -1, expected a whole number"),
}


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_keys_without_effect_are_refused(name: str) -> None:
    change, message = WITHOUT_EFFECT[name]
    with pytest.raises(ConfigError, match=message) as caught:
        experiment.JointExperiment(make_recipe(**change))
    assert "\n" not in str(caught.value)
