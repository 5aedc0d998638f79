"""What sees time learns which way the camera pans; what sees frames does not. Minutes long, so nightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtpeft.continual.experiment import Experiment
from mtpeft.runs.comparison import comparison_rows
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.recipe import load_recipe

pytestmark = pytest.mark.slow


def learned(row: str, folder: Path) -> float:
    """Accuracy in percent on held-out times of the films, of one task of the recipe."""
    recipe: dict[str, Any] = {r.name: r.recipe for r in comparison_rows(load_recipe("motion_stream"))}[row]
    stream = recipe["stream"]
    stream["tasks"] = {"pan": stream["tasks"]["pan"]}
    stream["data"].update(groups=["pan"], cache=str(folder / "clips"))
    results = Experiment(recipe).run(RunFolder(folder / row, recipe))
    assert results is not None
    return results["matrix"]["values"][0][0]


@pytest.mark.parametrize("row", ["st_adapter", "aim"])
def test_adapters_over_time_learn_what_averaged_frames_cannot(row: str, tmp_path: Path) -> None:
    assert learned(row, tmp_path) > 85.0


@pytest.mark.parametrize("row", ["mean_of_frames", "lora"])
def test_without_time_both_directions_are_one(row: str, tmp_path: Path) -> None:
    assert abs(learned(row, tmp_path) - 50.0) < 5.0
