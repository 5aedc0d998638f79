"""Joint runs with a feature cache end with the results, and the pictures, of runs without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from squares import make_recipe, train

from mtpeft.errors import ConfigError
from mtpeft.joint.experiment import JointExperiment

LATE = {"method": {"name": "lora", "rank": 4, "dropout": 0.1, "blocks": [1]}}


def cached(recipe: dict[str, Any], folder: Path, features: Any = True) -> dict[str, Any]:
    return {**recipe, "cache": {"features": features, "folder": str(folder / "features"), "limit": 1}}


@pytest.mark.parametrize(
    "changes",
    [
        LATE,
        pytest.param(
            {"method": "lst", "sharing": "per_task", "validation": {"share": 0.25}, "data": {"missing": 3}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["late lora", "lst per task, validation, missing labels"],
)
def test_same_results_killed_or_not(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = make_recipe(**changes)
    _, plain = train(recipe, tmp_path / "plain")
    _, found = train(cached(recipe, tmp_path), tmp_path / "cached")
    assert plain is not None and found is not None
    facts = found.pop("feature_cache")
    assert facts["images"] == 24 and found == plain
    pictures = sorted((tmp_path / "plain/pictures").iterdir())
    assert pictures and all((tmp_path / "cached/pictures" / p.name).read_bytes() == p.read_bytes() for p in pictures)
    assert train(cached(recipe, tmp_path), tmp_path / "killed", kill_at=5)[1] is None
    assert train(cached(recipe, tmp_path), tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "cached/results.json").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    filled = [line for line in lines if line["event"] == "features"]
    assert filled and all(line["computed"] == 0 and line["found"] == 24 for line in filled)


def test_random_transforms_are_refused(tmp_path: Path) -> None:
    recipe = make_recipe(**LATE, transforms={"train": [{"name": "resize", "size": 32}, {"name": "flip"}]})
    with pytest.raises(
        ConfigError, match=r"transforms.train has 'flip', which shows an image otherwise in every epoch"
    ):
        JointExperiment(cached(recipe, tmp_path))
    assert JointExperiment(cached(recipe, tmp_path, "auto")).features is None
