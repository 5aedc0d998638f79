"""A joint run that goes on for more steps, or with settings that do not touch its results."""

from __future__ import annotations

import json
import pprint
from pathlib import Path
from typing import Any

import pytest
from squares import make_recipe, train

from mtpeft.cli.main import main
from mtpeft.evaluation import read
from mtpeft.runs.folder import read_recipe


def recipe_of(steps: int, **changes: Any) -> dict[str, Any]:
    """Two tasks; a constant rate, so that the number of steps does not change those that were trained."""
    training = {"steps": steps, "schedule": "constant", "warmup": 0.0, "eval_every": 2, **changes.pop("training", {})}
    tasks = {"depth": {}, "normals": {}}
    return make_recipe(**{"tasks": tasks, "data": {"length": 4}, **changes, "training": training})


def write(file: Path, values: dict[str, Any]) -> str:
    file.write_text("\n".join(f"{key} = {pprint.pformat(value, sort_dicts=False)}" for key, value in values.items()))
    return str(file)


def test_more_steps_equal_all_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """4 steps, then 8 in the same folder: all that 8 steps at once give, dropout and optimiser included."""
    file, out = tmp_path / "small.py", ["--out", str(tmp_path / "run")]
    assert main(["train", write(file, recipe_of(4)), *out]) == 0
    page = (tmp_path / "run/report.html").read_bytes()
    capsys.readouterr()
    assert main(["train", write(file, recipe_of(8)), *out]) == 0
    assert "training.steps is now 8: the learning rate follows the schedule of the new total" in capsys.readouterr().out
    results = read(tmp_path / "run/results.json")
    assert main(["train", write(file, recipe_of(8)), "--out", str(tmp_path / "whole")]) == 0
    whole = read(tmp_path / "whole/results.json")
    assert results.pop("continued") == [{"step": 4, "key": "training.steps", "old": 4, "new": 8}]
    assert results == whole and (tmp_path / "run/report.html").read_bytes() != page
    assert read_recipe(tmp_path / "run") == read_recipe(tmp_path / "whole")
    events = [json.loads(line)["event"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert events.count("change") == 1 and events.count("done") == 2
    assert main(["evaluate", str(tmp_path / "run")]) == 0


def test_a_running_run_with_other_settings(tmp_path: Path) -> None:
    """Killed off the interval, then with more steps, workers and another interval."""
    assert train(recipe_of(4), tmp_path / "run", kill_at=4)[1] is None
    later = recipe_of(6, training={"workers": 1}, checkpoint={"interval": 3})
    _, results = train(later, tmp_path / "run")
    _, whole = train(recipe_of(6), tmp_path / "whole")
    assert results is not None and whole is not None
    keys = [line["key"] for line in results["continued"]]
    assert keys == ["checkpoint.interval", "training.steps", "training.workers"]
    assert results["final"] == whole["final"] and results["curves"] == whole["curves"]


def test_separate_runs_go_on(tmp_path: Path) -> None:
    """Every task's run and the results of all of them."""
    file, out = tmp_path / "both.py", ["--out", str(tmp_path / "both")]
    values = {**recipe_of(2, pictures=0, gradient_conflict=0), "separate": True}
    assert main(["train", write(file, values), *out]) == 0
    longer = {**recipe_of(4, pictures=0, gradient_conflict=0), "separate": True}
    assert main(["train", write(file, longer), *out]) == 0
    results = read(tmp_path / "both/results.json")
    assert [entry["step"] for entry in results["history"]] == [2, 4]
    assert results["continued"] == [{"step": 2, "key": "training.steps", "old": 2, "new": 4}]
    for task in ("depth", "normals"):
        assert results["final"][task] == read(tmp_path / f"both/{task}/results.json")["final"][task]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fewer steps": (recipe_of(2), "training.steps (4 there, 2 here): a run can go on for longer"),
    "sharing": (recipe_of(8, sharing="per_task"), "sharing ('shared' there, 'per_task' here)"),
    "added tasks": ({**recipe_of(8), "continue_from": "run"}, "continue_from adds tasks to a continual run"),
}


def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, nothing changed; a comparison's reference is not made longer either."""
    file, run = tmp_path / "small.py", tmp_path / "run"
    assert main(["train", write(file, recipe_of(4)), "--out", str(run)]) == 0
    before = {f: f.read_bytes() for f in run.rglob("*") if f.is_file()}
    for name, (values, message) in REFUSED.items():
        out = tmp_path / "new" if name == "added tasks" else run
        capsys.readouterr()
        assert main(["train", write(file, values), "--out", str(out)]) == 2, name
        error = capsys.readouterr().err.strip()
        assert message in error and error.startswith("mtpeft: ") and "\n" not in error
    assert {f: f.read_bytes() for f in run.rglob("*") if f.is_file()} == before and not (tmp_path / "new").exists()


def test_a_reference_is_not_made_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [write(tmp_path / f"{n}.py", recipe_of(2, name=n, pictures=0, gradient_conflict=0)) for n in ("a", "b")]
    table = {"rows": rows, "reference": rows[1], "common": {"training": {"steps": 2}}}
    command = ["train", write(tmp_path / "table.py", table), "--out", str(tmp_path / "table")]
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--set", "common.training.steps=4"]) == 2
    assert "b is the reference of the comparison: it cannot go on for longer" in capsys.readouterr().err
