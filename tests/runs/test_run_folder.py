"""The run folder: which changes of a recipe it takes, what it notes, and that nothing is written before all is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtpeft.errors import ConfigError
from mtpeft.runs.changes import FREE, LENGTHS, differences
from mtpeft.runs.folder import RunFolder, read_recipe

RECIPE: dict[str, Any] = {
    "name": "small",
    "method": {"name": "lora", "rank": 4},
    "training": {"epochs": 2, "steps": 8, "workers": 0, "optimizer": {"type": "SGD", "lr": (0.1)}},
    "checkpoint": {"interval": 5},
    "cache": {"features": "auto", "folder": "here", "limit": 1},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    """`RECIPE` with one dotted key set."""
    recipe: dict[str, Any] = json.loads(json.dumps(RECIPE))
    *parents, last = key.split(".")
    place = recipe
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = RunFolder(tmp_path / "run", RECIPE)
    assert not run.path.exists()
    run.open()
    run.results.write_text("results")
    run.report.write_text("page")
    return run.path


@pytest.mark.parametrize("key", [*LENGTHS, *FREE])
def test_changes_that_are_taken(key: str, folder: Path) -> None:
    """Noted with old and new value, in config.py and the log, after `accept` alone; longer runs lose their results."""
    before = (folder / "config.py").read_bytes()
    recipe = changed(key, 9)
    run = RunFolder(folder, recipe)
    assert [change.key for change in run.changes] == [key] and run.complete == (key in FREE)
    assert (folder / "config.py").read_bytes() == before and run.results.exists()
    run.open()
    run.accept(3)
    old = next(iter(differences(RECIPE, recipe))).old
    line = {"step": 3, "key": key, "old": old, "new": 9}
    assert read_recipe(folder) == recipe and run.results.exists() == run.report.exists() == (key in FREE)
    again = RunFolder(folder, recipe)
    assert again.changes == [] and again.continued == [line]
    silent = key.split(".")[0] in ("device", "visualizer", "cache")
    assert again.facts == ({} if silent else {"continued": [line]})
    logged = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert {k: v for k, v in logged.items() if k != "time"} == {"event": "change", **line}
    again.accept(4)
    assert RunFolder(folder, recipe).continued == [line]


REFUSED = {
    "method.rank": (8, r"method.rank \(4 there, 8 here\)"),
    "method": ("full", r"method \(\{'name': 'lora', 'rank': 4\} there, 'full' here\)"),
    "training.optimizer.lr": (0.2, r"training.optimizer.lr \(0.1 there, 0.2 here\)"),
    "seed": (1, r"seed \(not given there, 1 here\)"),
    "training.steps": (7, r"training.steps \(8 there, 7 here\): a run can go on for longer, not be cut"),
    "training.epochs": ("many", r"training.epochs \(2 there, 'many' here\): a run can go on for longer"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_changes_that_are_refused(key: str, folder: Path) -> None:
    """In one line that names key, old and new value; the folder is untouched."""
    value, message = REFUSED[key]
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match=message) as caught:
        RunFolder(folder, changed(key, value))
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_fresh_removes_the_run_when_it_is_opened(folder: Path) -> None:
    run = RunFolder(folder, changed("seed", 1), fresh=True)
    assert not run.complete and run.results.exists()
    run.open()
    assert not run.results.exists() and read_recipe(folder)["seed"] == 1


@pytest.mark.parametrize(
    "text", ["", "recipe = ", "recipe = 3", "x = {}", "recipe = {}\ncontinued = 3", "recipe = f()"]
)
def test_a_damaged_config(text: str, folder: Path) -> None:
    (folder / "config.py").write_text(text)
    with pytest.raises(ConfigError, match=r"config.py is damaged; it should hold the resolved recipe"):
        read_recipe(folder)
    with pytest.raises(ConfigError, match=r"its config.py differs from what the run wrote there"):
        RunFolder(folder, RECIPE)
