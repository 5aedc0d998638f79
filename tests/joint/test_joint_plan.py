"""Plans and `--dry-run` of joint recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from squares import TASKS, make_recipe, train

from mtpeft.cli.main import main
from mtpeft.joint.plan import runs
from mtpeft.runs.plan import measure


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # nothing is in its cache
    return tmp_path


def test_a_plan_is_what_the_run_does(folder: Path) -> None:
    recipe = make_recipe(sampler={"name": "uniform"})
    [plan] = [measure(run, 0.01) for run in runs(recipe)]
    assert not list(folder.iterdir())
    _, results = train(recipe, folder / "run")
    assert results is not None
    [part] = plan["parts"]
    assert (plan["steps"], part["epoch_steps"], part["tasks"]) == (8, 3, list(TASKS))
    assert part["flops"] == results["flops"]["total"]
    for task, facts in results["memory"]["per_task"].items():
        assert {"trained": plan["tasks"][task]["trained"], **plan["tasks"][task]["bytes"]} == facts
        assert facts["trained"] == results["parameters"]["per_task"][task]["method"] + facts["head"] // 4
    assert plan["seconds"]["run"] > plan["seconds"]["training"] > 8 * part["seconds"]["compute"]
    kept = sum(file.stat().st_size for file in (folder / "run" / "checkpoints").glob("*.safetensors"))
    assert kept == pytest.approx(plan["disk"]["checkpoint"], rel=0.4)


def test_the_estimated_peak_is_that_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(training={"batch_size": 12})
    [run] = runs(recipe)
    told = measure(run, None)["memory"]
    [run] = runs(recipe)
    monkeypatch.setattr(run.parts[0], "sizes", (12, 13))
    assert told["peak"] == pytest.approx(measure(run, None)["memory"]["peak"], rel=0.05)


@pytest.mark.parametrize("command", ["train", "plan"])
def test_scenes_that_are_not_rendered_are_drawn(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Few of them, in memory; 75 steps take all 1,200 once. Nothing is left behind."""
    pytest.importorskip("pybullet")
    tail = ["--dry-run"] if command == "train" else ["--seconds", "0.01", "--json"]
    assert main([command, "joint/scenes_adaptformer", *tail]) == 0
    out = capsys.readouterr().out
    if command == "plan":
        [plan] = json.loads(out)["rows"]
        assert "has no scenes yet" in plan["made_up"] and plan["parts"][0]["epoch_steps"] == 75
        assert plan["steps"] == 600 and plan["parts"][0]["outputs"]["semseg"] == [2, 9, 64, 64]
    else:
        assert "scenes_adaptformer: a dry run with made-up data" in out and "semseg: output (2, 9, 64, 64)" in out
        assert all(len(line) <= 80 for line in out.splitlines() if str(folder) not in line)  # paths are not cut
    assert not [file for file in folder.rglob("*") if file.is_file()]


def test_rows_and_tasks_trained_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """A comparison is planned row by row, a row of separate runs task by task."""
    recipe = make_recipe()
    del recipe["name"]
    rows = {"one": {}, "apart": {"separate": True}}
    found = [run.name for run in runs({"name": "both", "rows": rows, "reference": "one", **recipe})]
    assert found == ["one", *(f"apart_{task}" for task in TASKS)]


def test_files_that_are_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused in one line that names the folder, where the data set cannot be made up."""
    file = folder / "own.py"
    file.write_text("_base_ = []\n" + "\n".join(f"{k} = {v!r}" for k, v in make_recipe().items()))
    change = f"data={{'name': 'nyud_mt', 'root': '{folder}/nowhere'}}"
    assert main(["plan", str(file), "--set", change]) == 2
    err = capsys.readouterr().err
    assert f"{folder}/nowhere" in err and len(err.splitlines()) == 1
    assert main(["train", str(file), "--set", "data={'name': 'scenes', 'generated': 2}"]) == 2
    assert "makes up data, which is for plans alone" in capsys.readouterr().err
    assert [found.name for found in folder.iterdir()] == ["own.py"]
