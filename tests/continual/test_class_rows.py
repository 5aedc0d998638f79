"""The comparison of ways to learn classes in a row: all of its rows can be built, and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import train

from mtpeft.continual.experiment import Experiment
from mtpeft.runs.comparison import comparison_rows
from mtpeft.runs.progress import Progress
from mtpeft.runs.recipe import load_recipe

ROWS = {row.name: row.recipe for row in comparison_rows(load_recipe("compare_class_incremental"))}


def small(name: str) -> dict[str, Any]:
    """A row on a few digits, with a random backbone of the same shape."""
    recipe = ROWS[name]
    stream = {**recipe["stream"], "data": {"type": "Digits"}, "num_tasks": 5, "train_per_class": 6, "test_per_class": 4}
    return {
        **recipe,
        "backbone": {**recipe["backbone"], "pretrained": False},
        "stream": stream,
        "training": {**recipe["training"], "epochs": 1, "batch_size": 16},
        "baselines": False,
    }


def test_both_comparisons_have_the_same_rows() -> None:
    other = comparison_rows(load_recipe("compare_class_incremental_objects"))
    assert [row.name for row in other] == list(ROWS) and len(ROWS) == 17


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_built(name: str) -> None:
    assert len(Experiment(small(name), Progress()).stream) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_row_runs(name: str, tmp_path: Path) -> None:
    _, results = train(small(name), tmp_path)
    assert results is not None and results["scenario"] == "class_incremental"
