"""`mtpeft export` of a finished run: its tasks, its inputs, its figures; mistakes are one line and write nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_recipe import make_recipe
from small_runs import train

from mtpeft.cli.main import main
from mtpeft.runs.loading import read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(make_recipe(training={"epochs": 1, "batch_size": 32}), folder)
    return folder


def test_a_run_s_task_leaves_with_what_the_run_says_of_it(run: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run), str(out), "--to", "timm", "--task", "task2"]) == 0
    assert "largest difference to mtpeft's outputs" in capsys.readouterr().out
    loaded = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    found = read_run(run, "cpu")
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pictures), found.manager(pictures, "task2"), atol=1e-4, rtol=1e-4)
    described = json.loads((out / "export.json").read_text())
    task = next(task for task in found.tasks.tasks if task.name == "task2")
    assert described["tasks"]["task2"]["classes"] == list(task.classes) == loaded.pretrained_cfg["label_names"]
    card = (out / "README.md").read_text()
    for line in ("| data | Digits | unknown |", "- task2: accuracy ", "- Average accuracy of the run's 5 tasks: "):
        assert line in card
    assert main(["export", str(run), str(out), "--to", "timm", "--task", "task2"]) == 2
    assert "is not empty; give another folder, or --force" in capsys.readouterr().err
    assert main(["export", str(run), str(out), "--to", "timm", "--task", "task3", "--force"]) == 0
    assert list(json.loads((out / "export.json").read_text())["tasks"]) == ["task3"]


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    unfinished = tmp_path / "unfinished"
    train(make_recipe(), unfinished, kill_at=2)
    before = sorted(tmp_path.iterdir())
    for arguments, reason in (
        ([run, tmp_path / "out", "--to", "timm", "--task", "task9"], "unknown task 'task9'"),
        ([run, tmp_path / "out", "--to", "timm"], "one task is exported at a time; name one of task0"),
        ([run, tmp_path / "file" / "out", "--to", "timm", "--task", "task0"], "cannot write"),
        ([unfinished, tmp_path / "out", "--to", "timm", "--task", "task0"], "has no results.json"),
        ([tmp_path, tmp_path / "out", "--to", "timm", "--task", "task0"], "is no run folder"),
    ):
        assert main(["export", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert reason in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_class_incremental_run_names_all_its_classes(tmp_path: Path) -> None:
    stream = {
        "type": "class_incremental",
        "data": {"type": "Digits"},
        "num_tasks": 2,
        "train_per_class": 4,
        "test_per_class": 2,
    }
    train(make_recipe(stream=stream, training={"epochs": 1, "batch_size": 32}), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "timm", "--task", "task1"]) == 0
    facts = json.loads((tmp_path / "out" / "export.json").read_text())["tasks"]["task1"]
    assert facts["outputs"] == 10 and sorted(facts["classes"]) == [str(digit) for digit in range(10)]
