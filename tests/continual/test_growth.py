"""Tasks added to a finished run: the end is that of a run that had all tasks from the start."""

from __future__ import annotations

import pprint
from pathlib import Path
from typing import Any

import pytest
from small_recipe import make_recipe
from small_runs import train
from tiles import changed_stream, make_dense

from mtpeft.cli.main import main

CLASS = {**make_recipe()["stream"], "type": "class_incremental", "train_per_class": 8, "test_per_class": 4}
TASK = {**CLASS, "type": "task_incremental"}
ADAPTER = {"method": {"name": "adaptformer", "bottleneck_dim": 4, "dropout": 0.0}, "sharing": "per_task"}
CALM = {"method": {"name": "lora", "rank": 4, "dropout": 0.0}}
#: recipes with all tasks, how many the first run has, and whether tasks it did not have were measured then too
RUNS: dict[str, tuple[dict[str, Any], int, bool]] = {
    "class, dropout, ewc": (
        make_recipe(stream=CLASS, plugins=[{"type": "EWCPlugin", "ewc_lambda": 10.0}], baselines=True), 3, True,
    ),
    "class, lae": (make_recipe(stream=CLASS, sharing="averaged", plugins=[{"type": "LAE", "momentum": 0.9}]), 4, True),
    "class, replay": (make_recipe(stream=CLASS, plugins=[{"type": "ReplayPlugin", "mem_size": 20}]), 4, True),
    "class, lwf": (
        make_recipe(stream=CLASS, plugins=[{"type": "LwFPlugin", "alpha": 1.0, "temperature": 2.0}]), 4, True,
    ),
    "task, isolated": (make_recipe(**ADAPTER, stream=TASK), 3, True),
    "task, shared": (make_recipe(**CALM, stream=TASK), 4, False),
    "dense, isolated": (make_dense(**ADAPTER), 2, True),
    "dense, shared": (make_dense(**CALM), 1, False),
}  # fmt: skip


def shorter(recipe: dict[str, Any], first: int) -> dict[str, Any]:
    return {**recipe, "stream": {**recipe["stream"], "first": first}}


@pytest.mark.parametrize("name", RUNS)
def test_equals_a_run_with_all_tasks(name: str, tmp_path: Path) -> None:
    """With the random numbers' state restored: the matrix, curve, baselines and references are equal, to the bit."""
    recipe, first, known = RUNS[name]
    _, whole = train(recipe, tmp_path / "whole")
    _, short = train(shorter(recipe, first), tmp_path / "short")
    _, results = train({**recipe, "continue_from": str(tmp_path / "short")}, tmp_path / "grown")
    assert whole is not None and short is not None and results is not None
    values, expected = results["matrix"]["values"], whole["matrix"]["values"]
    if known:
        assert results["matrix"] == whole["matrix"] and results["measures"] == whole["measures"]
        kept = {key: value for key, value in results.items() if key != "continued"}
        assert kept == whole
    else:  # what the first run could not measure is missing, and nothing else
        for i, (row, other) in enumerate(zip(values, expected, strict=True)):
            assert row == [v if i >= first or j < first else None for j, v in enumerate(other)]
    assert results["reference"] == whole["reference"] and results["curves"] == whole["curves"]
    names = [task["name"] for task in whole["tasks"]]
    step = short["curves"]["train_loss"][-1]["step"]
    line = {"step": step, "key": "stream.tasks", "old": names[:first], "new": names}
    assert results["continued"] == [line] and "continue_from" not in results["recipe"]
    assert main(["evaluate", str(tmp_path / "grown")]) == 0


def test_a_kill_while_it_grows(tmp_path: Path) -> None:
    """Killed before and after the first state of the new tasks: the same bytes. The first run is not needed any more."""
    recipe = make_recipe(stream=CLASS, checkpoint={"interval": 1})
    _, short = train(shorter(recipe, 3), tmp_path / "short")
    grown = {**recipe, "continue_from": str(tmp_path / "short")}
    _, whole = train(grown, tmp_path / "whole")
    assert train(grown, tmp_path / "killed", kill_at=3)[1] is None
    (tmp_path / "short").rename(tmp_path / "gone")
    _, results = train(grown, tmp_path / "killed")
    assert short is not None and results == whole
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


SHORT = make_recipe(**CALM, stream={**TASK, "first": 2})
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": {"name": "lora", "rank": 2, "dropout": 0.0}}, "of the run: method.rank (4 there, 2 here)"),
    "sharing": ({"sharing": "per_task"}, "sharing ('shared' there, 'per_task' here)"),
    "seed": ({"seed": 4}, "seed (3 there, 4 here)"),
    "plugins": ({"plugins": [{"type": "LwFPlugin"}]}, "plugins (not given there, [{'type': 'LwFPlugin'}] here)"),
    "backbone": (
        {"backbone": {**SHORT["backbone"], "options": {"depth": 3, "patch_size": 8}}}, "backbone.options.depth (2 there, 3 here)",
    ),
    "no new task": ({"stream": {**TASK, "first": 2}}, "the run has 2 tasks, the stream 2: add tasks behind"),
    "other samples": ({"stream": {**TASK, "test_per_class": 5}}, "stream.test_per_class (4 there, 5 here)"),
    "other classes": (
        {"stream": {**TASK, "order": [1, 0, *range(2, 10)]}}, "task 1 must be that of the run, 'task0'; it differs in class",
    ),
    "other kind": ({"stream": CLASS}, "stream.type ('task_incremental' there, 'class_incremental' here)"),
    "too many": ({"stream": {**TASK, "first": 6}}, "stream.first is 6, expected 1 to 5"),
    "no run": ({"continue_from": "OUT/none"}, "is no run folder: it has no config.py"),
    "unfinished": ({"continue_from": "OUT/killed"}, "it is not complete, it has no results.json"),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and one that was killed."""
    folder = tmp_path_factory.mktemp("runs")
    train(SHORT, folder / "short")
    train(SHORT, folder / "killed", kill_at=3)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, no folder."""
    change, message = REFUSED[name]
    recipe = {**SHORT, "stream": TASK, "continue_from": str(runs / "short"), **change}
    recipe["continue_from"] = recipe["continue_from"].replace("OUT", str(runs))
    file = tmp_path / "grown.py"
    file.write_text("\n".join(f"{key} = {pprint.pformat(value)}" for key, value in recipe.items()))
    assert main(["continual", str(file), "--out", str(tmp_path / "grown")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("mtpeft: ") and "\n" not in error
    assert not (tmp_path / "grown").exists()


def test_weights_that_depend_on_the_number_of_tasks(tmp_path: Path) -> None:
    """Refused by name where there are such; a dense stream is compared by its tasks' order."""
    from mtpeft.errors import ConfigError

    recipe = make_dense(**CALM)
    train(shorter(recipe, 2), tmp_path / "short")
    stream = changed_stream(tasks=["depth", "semseg", "normals"])
    with pytest.raises(ConfigError, match="task 1 must be that of the run, 'semseg'"):
        train({**recipe, "stream": stream, "continue_from": str(tmp_path / "short")}, tmp_path / "grown")
