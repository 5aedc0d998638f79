"""A value of another type at any key of a recipe is one line, or means something; never a traceback."""

from __future__ import annotations

from typing import Any

import pytest
from small_recipe import make_recipe

from mtpeft.continual.experiment import Experiment
from mtpeft.testing.wrong_values import check_changed_recipes

RECIPE: dict[str, Any] = make_recipe(
    plugins=[{"type": "EWCPlugin", "ewc_lambda": 1.0}],
    augment={"flip": True, "scale": [0.5, 1.0], "auto_augment": "rand-m5", "re_prob": 0.1},
    input={
        "mean": [0, 0, 0],
        "std": [1.0, 1.0, 1.0],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
    },
    published={"A": {"source": "someone", "values": {"average_accuracy": 80.5}}},
    strips=None,
    device="cpu",
)


def test_a_wrong_value_at_each_key_is_one_line() -> None:
    assert check_changed_recipes(RECIPE, Experiment, every=False) > 20


@pytest.mark.slow
def test_wrong_values_of_every_type_are_one_line() -> None:
    assert check_changed_recipes(RECIPE, Experiment, every=True) > 200
