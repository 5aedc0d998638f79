"""Every key of a continual recipe does something, or is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from small_recipe import make_recipe
from small_runs import train

from mtpeft.continual import built
from mtpeft.continual.training import Training
from mtpeft.errors import ConfigError

STREAM = {**make_recipe()["stream"], "first": 1, "train_per_class": 4, "test_per_class": 2}


def test_every_training_key_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the checks of the section: by the building of a run and two of its steps."""
    seen: set[str] = set()

    class Recorded(Training):
        def __post_init__(self) -> None:
            super().__post_init__()
            seen.clear()

        def __getattribute__(self, name: str) -> Any:
            seen.add(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(built, "Training", Recorded)
    training = {"schedule": "poly", "warmup": 0.1, "batch_size": 4}
    train(make_recipe(stream=STREAM, training=training), tmp_path / "run")
    assert {field.name for field in fields(Training)} - seen == set()


WITHOUT_EFFECT: dict[str, tuple[dict[str, Any], str]] = {
    "power": ({"training": {"power": 2.0}}, "training.power belongs to the schedule poly"),
    "eval_every": (
        {"stream": {**STREAM, "validation": {"share": 0.25}}, "training": {"eval_every": 1}},
        "training.eval_every serves plugins",
    ),
    "loss": ({"training": {"loss": "local_cross_entropy"}}, "a task_incremental stream has none"),
    "strips": ({"strips": 3}, "strips shows frames of clips"),
    "order": ({"stream": {**STREAM, "order": list(range(10)), "order_seed": 1}}, "give order or order_seed"),
    "tasks": ({"stream": {**STREAM, "classes_per_task": 2}}, "exactly one of num_tasks and classes_per_task"),
    "head": ({"head": {"name": "linear"}}, "nothing reads the key head"),
    "interval": ({"checkpoint": {"interval": "often"}}, "checkpoint.interval is 'often', expected a whole number"),
    "seed": ({"seed": "x"}, "seed is 'x', expected a whole number"),
}


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_keys_without_effect_are_refused(name: str) -> None:
    change, message = WITHOUT_EFFECT[name]
    with pytest.raises(ConfigError, match=message) as caught:
        built.Built(make_recipe(**{"stream": STREAM, **change}))
    assert "\n" not in str(caught.value)
