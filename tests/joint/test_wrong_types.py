"""A value of another type at any key of a recipe is one line, or means something; never a traceback."""

from __future__ import annotations

from typing import Any

import pytest
from squares import make_recipe

from mtpeft.errors import MtpeftError
from mtpeft.joint.experiment import JointExperiment
from mtpeft.testing.wrong_values import check_changed_recipes

RECIPE: dict[str, Any] = make_recipe(
    sampler={"name": "temperature", "temperature": 2.0, "group": 2},
    weighting={"name": "dwa", "temperature": 2.0, "window": 5},
    validation={"share": 0.3, "seed": 0},
    single_task={"depth": 1.0},
    input={"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    published={"A": {"source": "someone", "values": {"delta": 1.0, "depth": 0.5}}},
    gradient_conflict=0,
    visualizer=[],
    pictures=1,
    device="cpu",
)


def test_a_wrong_value_at_each_key_is_one_line() -> None:
    assert check_changed_recipes(RECIPE, JointExperiment, every=False) > 20


def test_what_dense_labels_would_have_to_follow_is_refused() -> None:
    with pytest.raises(MtpeftError, match=r"input\.crop_pct changes images alone, .* use transforms"):
        JointExperiment(make_recipe(input={"crop_pct": 0.9}))
    experiment = JointExperiment(make_recipe(input={"mean": [0.0, 0.25, 0.5]}))
    assert tuple(experiment.data_config["mean"]) == (0.0, 0.25, 0.5)


@pytest.mark.slow
def test_wrong_values_of_every_type_are_one_line() -> None:
    assert check_changed_recipes(RECIPE, JointExperiment, every=True) > 200
