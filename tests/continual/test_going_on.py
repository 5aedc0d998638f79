"""A continual run that goes on for more epochs, or with settings that do not touch its results."""

from __future__ import annotations

import json
import pprint
from pathlib import Path
from typing import Any

import pytest
from small_recipe import make_recipe
from small_runs import train

from mtpeft.cli.main import main
from mtpeft.evaluation import read
from mtpeft.runs.folder import read_recipe

STREAM = {**make_recipe()["stream"], "first": 2, "train_per_class": 8, "test_per_class": 4}
SGD = {"type": "SGD", "lr": 0.05}


def recipe_of(epochs: int = 1, **changes: Any) -> dict[str, Any]:
    """Two tasks, two steps an epoch, a constant rate and an optimiser without memory."""
    training = {"epochs": epochs, "batch_size": 8, "optimizer": SGD, "log_every": 1, **changes.pop("training", {})}
    method = {"name": "lora", "rank": 4, "dropout": 0.0}
    return make_recipe(**{"stream": STREAM, "training": training, "method": method, **changes})


def command(file: Path, recipe: dict[str, Any]) -> list[str]:
    file.write_text("\n".join(f"{key} = {pprint.pformat(value)}" for key, value in recipe.items()))
    return ["continual", str(file), "--out", str(file.parent / "run")]


def losses(results: dict[str, Any], task: str) -> list[float]:
    return [point["loss"] for point in results["curves"]["train_loss"] if point["task"] == task]


def test_a_finished_run_trains_its_last_task_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two epochs more of the last task equal three at once, as the optimiser remembers nothing; the first is left."""
    file = tmp_path / "small.py"
    assert main(command(file, recipe_of(1))) == 0
    short = read(tmp_path / "run/results.json")
    page = (tmp_path / "run/report.html").read_bytes()
    assert main(command(file, recipe_of(3))) == 0
    results = read(tmp_path / "run/results.json")
    assert (
        "training.epochs is now 3: the learning rate follows the schedule of the new total" in capsys.readouterr().out
    )
    assert results["continued"] == [{"step": 4, "key": "training.epochs", "old": 1, "new": 3}]
    assert results["recipe"]["training"]["epochs"] == 3 and (tmp_path / "run/report.html").read_bytes() != page
    assert losses(results, "task0") == losses(short, "task0")
    expected, _ = train({**recipe_of(1)}, tmp_path / "whole")
    strategy = expected.strategy  # the same by hand: the trained model, its last experience from the second epoch on
    more = [p["step"] for p in results["curves"]["train_loss"] if p["task"] == "task1"]
    assert more == [3, 4, 5, 6, 7, 8]
    seen: list[float] = []
    strategy.train_epochs = 3
    strategy.on_step = lambda: seen.append(strategy.loss.item())
    strategy.train_experience(1, 1)
    assert losses(results, "task1")[2:] == pytest.approx(seen, abs=1e-6)
    assert results["matrix"]["values"][0] == short["matrix"]["values"][0]
    assert main(command(file, recipe_of(3))) == 0 and "complete already" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run")]) == 0


def test_killed_while_it_goes_on(tmp_path: Path) -> None:
    """Killed after the first of the added steps, before anything was saved, and later: the same bytes in the end."""
    for folder in ("whole", "killed"):
        train(recipe_of(1), tmp_path / folder)
    train(recipe_of(3), tmp_path / "whole")
    for kill_at in (1, 3):
        assert train(recipe_of(3), tmp_path / "killed", kill_at)[1] is None
        assert not (tmp_path / "killed/results.json").exists()
    assert train(recipe_of(3), tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


def test_an_unfinished_run_takes_them_from_there_on(tmp_path: Path) -> None:
    """Killed in the second task: the first keeps its one epoch, the second gets all three, as if it had them at once."""
    assert train(recipe_of(1, checkpoint={"interval": 1}), tmp_path / "run", kill_at=4)[1] is None
    _, results = train(recipe_of(3, checkpoint={"interval": 1}), tmp_path / "run")
    assert results is not None
    assert [len(losses(results, task)) for task in ("task0", "task1")] == [2, 6]
    assert [line["key"] for line in results["continued"]] == ["training.epochs"]
    train(recipe_of(1), tmp_path / "finished")
    _, other = train(recipe_of(3), tmp_path / "finished")
    assert other is not None and results["matrix"] == other["matrix"]


def test_settings_that_do_not_touch_results(tmp_path: Path) -> None:
    """Another interval, workers and log_every for the rest of a run: the same matrix, and notes of the changes."""
    _, whole = train(recipe_of(2), tmp_path / "whole")
    assert train(recipe_of(2), tmp_path / "run", kill_at=3)[1] is None
    changes = recipe_of(2, training={"log_every": 2, "workers": 1}, checkpoint={"interval": 1})
    _, results = train(changes, tmp_path / "run")
    assert whole is not None and results is not None and results["matrix"] == whole["matrix"]
    keys = ["checkpoint.interval", "training.log_every", "training.workers"]
    assert [line["key"] for line in results["continued"]] == keys
    assert read_recipe(tmp_path / "run") == changes
    events = [json.loads(line)["event"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert events.count("change") == 3


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "method": ({}, {"method": {"name": "lora", "rank": 2}}, "method.dropout (0.0 there, not given here), method.rank"),
    "fewer epochs": ({"epochs": 2}, {"epochs": 1}, "training.epochs (2 there, 1 here): a run can go on for longer"),
    "plugins": (
        {"plugins": [{"type": "EWCPlugin", "ewc_lambda": 1.0}]},
        {"epochs": 2, "plugins": [{"type": "EWCPlugin", "ewc_lambda": 1.0}]},
        "its plugins (EWCPlugin) have closed the last task",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, nothing changed."""
    first, second, message = REFUSED[name]
    file = tmp_path / "small.py"
    assert main(command(file, recipe_of(**first))) == 0
    before = {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}
    capsys.readouterr()
    assert main(command(file, recipe_of(**second))) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("mtpeft: ") and "\n" not in error
    assert {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()} == before
