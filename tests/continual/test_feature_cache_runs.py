"""Runs with a feature cache end with the results of runs without: losses, matrix and weights are the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_recipe import make_recipe
from small_runs import train

from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress

CLASS = {**make_recipe()["stream"], "type": "class_incremental"}
SHORT = {**make_recipe()["stream"], "num_tasks": 2, "train_per_class": 6, "test_per_class": 4}
DENSE = {
    "type": "dense_incremental",
    "data": {"name": "tiles"},
    "tasks": ["semseg"],
    "head": {"name": "dense_linear"},
    "transforms": {"train": [{"name": "resize", "size": 32}], "val": [{"name": "resize", "size": 32}]},
}
LATE = {"method": {"name": "lora", "rank": 4, "dropout": 0.1, "blocks": [1]}}
RUNS: dict[str, dict[str, Any]] = {
    "linear probe": {"method": "linear_probe"},
    "lst": {"method": "lst", "sharing": "per_task"},
    "vqt, whose queries drop": {"method": "vqt", "sharing": "per_task"},
    "lora in the last block": LATE,
    "a pool, whose queries are kept": {
        "method": {"name": "vpt_shallow", "num_tokens": 2},
        "sharing": {"name": "pool", "size": 4, "top_k": 2},
        "stream": {**SHORT, "type": "class_incremental"},
    },
    "bfloat16": {**LATE, "training": {**make_recipe()["training"], "amp": "bfloat16"}},
    "replay, class-incremental": {
        "method": "linear_probe",
        "stream": CLASS,
        "plugins": [{"type": "ReplayPlugin", "mem_size": 20}],
    },
    "alignment with drift, class-incremental": {
        **LATE,
        "stream": {**CLASS, "first": 2},
        "plugins": [{"type": "ClassifierAlignment", "samples": 8, "drift": "semantic"}],
    },
    "lwf, class-incremental": {
        **LATE,
        "stream": CLASS,
        "plugins": [{"type": "LwFPlugin", "alpha": 1.0, "temperature": 2.0}],
    },
    "early stopping on validation data": {
        **LATE,
        "stream": {**CLASS, "validation": {"share": 0.25}},
        "plugins": [{"type": "EarlyStoppingPlugin", "patience": 1}],
        "training": {**make_recipe()["training"], "epochs": 3, "eval_every": 1},
    },
}


def cached(recipe: dict[str, Any], folder: Path, features: Any = True, **more: Any) -> dict[str, Any]:
    return {**recipe, "cache": {"features": features, "folder": str(folder / "features"), "limit": 1, **more}}


def events(folder: Path, name: str = "features") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if i < 5 else pytest.mark.slow) for i, n in enumerate(RUNS)])
def test_same_results(name: str, tmp_path: Path) -> None:
    recipe = make_recipe(**{"stream": SHORT, **RUNS[name]})
    _, plain = train(recipe, tmp_path / "plain")
    _, found = train(cached(recipe, tmp_path), tmp_path / "cached")
    assert plain is not None and found is not None
    assert found.pop("feature_cache")["images"] > 0
    assert found == plain


@pytest.mark.slow
def test_dense_tasks(tmp_path: Path) -> None:
    import tiles  # noqa: F401

    recipe = make_recipe(stream=DENSE, **LATE)
    _, plain = train(recipe, tmp_path / "plain")
    _, found = train(cached(recipe, tmp_path), tmp_path / "cached")
    assert plain is not None and found is not None
    assert "block 0" in found.pop("feature_cache")["features"]
    assert found == plain


def test_killed_run_ends_the_same(tmp_path: Path) -> None:
    """Killed in training, in the filling, and with a damaged file of rows."""
    recipe = cached(make_recipe(stream=SHORT, **LATE), tmp_path)
    _, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    first = events(tmp_path / "whole")[0]
    assert first["computed"] == 10 * 6 + 10 * 4 and first["found"] == 0
    assert train(recipe, tmp_path / "killed", kill_at=3)[1] is None  # steps of the filling count: 4 parts
    damaged = next((tmp_path / "features").rglob("*.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    told: list[str] = []
    experiment = Experiment(recipe, Progress(message=told.append))
    assert experiment.run(RunFolder(tmp_path / "killed", recipe)) is not None
    assert any(str(damaged) in line and "computed again" in line for line in told)
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    assert train(recipe, tmp_path / "later", kill_at=7)[1] is None
    plain = {key: value for key, value in recipe.items() if key != "cache"}  # the same run goes on without
    _, resumed = train(plain, tmp_path / "later")
    assert resumed is not None and {**resumed, "feature_cache": whole["feature_cache"]} == whole


def test_a_changed_image_is_computed_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("0", "1"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for index in range(3):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / label / f"{index}.png")
    stream = {
        "type": "task_incremental",
        "num_tasks": 1,
        "data": {"type": "ImageFolder", "root": str(tmp_path / "data")},
    }
    recipe = cached(make_recipe(stream=stream, method="linear_probe"), tmp_path)
    train(recipe, tmp_path / "one")
    file = tmp_path / "data/train/0/1.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(file)
    train(recipe, tmp_path / "two")
    counts = [(e["found"], e["computed"]) for run in ("one", "two") for e in events(tmp_path / run)]
    assert counts == [(0, 12), (11, 1)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"augment": {"flip": True}, **LATE}, "has other training images"),
        ({}, "nothing of the backbone precedes what is trained"),
        ({"method": "full"}, "all of the backbone is trained"),
        (
            {
                **LATE,
                "backbone": {
                    **make_recipe()["backbone"],
                    "options": {"depth": 2, "drop_path_rate": 0.1},
                    "train_mode": True,
                },
            },
            "drops at random",
        ),
    ],
)
def test_refused_or_left_out(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    recipe = make_recipe(**{"stream": SHORT, **changes})
    with pytest.raises(ConfigError, match=f"recipe small: cache: .*{why}"):
        Experiment(cached(recipe, tmp_path))
    told: list[str] = []
    experiment = Experiment(cached(recipe, tmp_path, features="auto"), Progress(message=told.append))
    assert experiment.features.cache is None and experiment.features.stream is experiment.stream
    assert len(told) == 1 and told[0].startswith("no feature cache: ")


def test_wrong_keys(tmp_path: Path) -> None:
    recipe = make_recipe(stream=SHORT, method="linear_probe")
    for cache, why in (
        ({"features": "yes"}, "cache.features"),
        ({}, "key cache.features is missing"),
        ({"features": True, "folders": "x"}, "nothing reads the key cache.folders"),
        ({"features": True, "limit": 0}, "cache.limit"),
        (True, "cache must be a mapping"),
    ):
        with pytest.raises(ConfigError, match=why):
            Experiment({**recipe, "cache": cache})
    with pytest.raises(ConfigError, match=r"rows of features take .* more than cache.limit"):
        Experiment(cached(recipe, tmp_path, limit=1e-6))
    assert Experiment({**recipe, "cache": {"features": False}}).features.cache is None
    assert Experiment(cached(recipe, tmp_path)).features.cache is not None
    assert not list(tmp_path.iterdir())  # nothing is written before rows are
