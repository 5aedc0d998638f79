"""The command line: run, evaluate, report, separate single-task runs, a comparison, resuming, mistakes."""

from __future__ import annotations

import json
import pprint
from pathlib import Path
from typing import Any

import pytest
from squares import TASKS, make_recipe, train

from mtpeft.cli.main import main
from mtpeft.evaluation import read
from mtpeft.runs.recipe import load_recipe, recipe_names


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file: Path, values: dict[str, Any]) -> str:
    """A recipe file; its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(f"{key} = {pprint.pformat(value, sort_dicts=False)}" for key, value in values.items()))
    return str(file)


def small(**changes: Any) -> dict[str, Any]:
    """Two tasks, two steps."""
    training = {"steps": 2, "eval_every": 0, **changes.pop("training", {})}
    tasks = {"depth": {}, "normals": {}}
    return make_recipe(**{"tasks": tasks, "data": {"length": 4}, **changes, "training": training})


def test_run_evaluate_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(folder / "small.py", small())
    assert main(["train", recipe]) == 0
    shown = capsys.readouterr().out
    assert "depth rmse" in shown and "no single-task values" in shown
    run = folder / "runs/small-seed3"
    assert {f.name for f in run.iterdir()} >= {"config.py", "log.jsonl", "checkpoints", "results.json", "report.html"}
    assert main(["train", recipe]) == 0 and "complete already" in capsys.readouterr().out
    assert main(["evaluate", str(run)]) == 0
    assert "depth: rmse" in capsys.readouterr().out
    results = read(run / "results.json")
    results["final"]["depth"]["rmse"] = results["main"]["depth"] = 1e-3
    results["history"][-1]["values"] = results["final"]
    (run / "results.json").write_text(json.dumps(results))
    assert main(["evaluate", str(run)]) == 1 and "(results.json: 0.001)" in capsys.readouterr().out
    assert main(["report", str(run), "--out", "page.html"]) == 0
    assert "data:image/png;base64" in (folder / "page.html").read_text()


def test_separate_runs_are_the_reference(folder: Path) -> None:
    """Each task in a run of its own, equal to a run with that task alone; one results.json of all."""
    values = small(method="full", sharing=None, training={"eval_every": 1})
    assert main(["train", write(folder / "both.py", {**values, "separate": True}), "--out", "both"]) == 0
    results = read(folder / "both/results.json")
    assert results["main"] == results["single_task"] and results["delta"] == 0.0 and results["best"] is None
    alone = train({**values, "name": "small_depth", "tasks": {"depth": {}}}, folder / "alone")[1]
    assert alone is not None
    assert results["final"]["depth"] == alone["final"]["depth"] and results["main"]["depth"] == alone["main"]["depth"]
    assert [t["name"] for t in results["tasks"]] == ["depth", "normals"]
    assert [e["step"] for e in results["history"]] == [1, 2] and set(results["history"][0]["values"]) == set(TASKS[1:])
    assert results["parameters"]["method"] == 2 * alone["parameters"]["method"]
    assert not results["frozen"]["unchanged"]
    index = json.loads((folder / "both/pictures/index.json").read_text())["tasks"]
    assert all((folder / "both/pictures" / c["image"]).is_file() for cases in index.values() for c in cases["best"])
    assert main(["evaluate", "both"]) == 0
    before = (folder / "both/results.json").read_bytes()
    (folder / "both/results.json").unlink()
    (folder / "both/normals/results.json").unlink()  # as if killed before the second task was finished
    assert main(["train", str(folder / "both.py"), "--out", "both"]) == 0
    assert (folder / "both/results.json").read_bytes() == before


def test_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reference row first; its values are the others' single-task values; finished rows are not run again."""
    rows = [
        write(folder / "probe.py", small(name="probe", method="linear_probe", sharing=None)),
        write(folder / "single.py", {**small(name="single", method="full", sharing=None), "separate": True}),
        write(folder / "shared.py", small(name="shared", method={"name": "lora", "rank": 2})),
    ]
    common = {"training": {"steps": 3}, "validation": {"share": 0.25}}
    recipe = write(folder / "compare.py", {"rows": rows, "reference": rows[1], "common": common})
    assert main(["train", recipe, "--out", "table"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("probe", "single", "shared", "delta"))
    single, shared = (read(folder / "table" / name / "results.json") for name in ("single", "shared"))
    assert shared["single_task"] == single["main"] and shared["delta"] is not None
    assert shared["best"]["step"] == 3 and (folder / "table/shared/best/manifest.json").is_file()
    assert (folder / "table/report.html").is_file()
    stamps = {f: f.stat().st_mtime_ns for f in (folder / "table").rglob("results.json")}
    (folder / "table/shared/results.json").unlink()
    assert main(["train", recipe, "--out", "table"]) == 0
    changed = {f.parent.name for f in stamps if f.stat().st_mtime_ns != stamps[f]}
    assert changed == {"shared"} and read(folder / "table/shared/results.json") == shared


def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(folder / "small.py", small())
    assert main(["train", recipe, "--set", "training.stepz=3"]) == 2
    assert "nothing reads the key training.stepz" in capsys.readouterr().err
    assert main(["train", recipe, "--resume"]) == 2
    assert "no checkpoint to resume from" in capsys.readouterr().err
    assert main(["train", write(folder / "c.py", {"rows": [recipe], "reference": "other"})]) == 2
    assert "reference 'other' is not one of rows" in capsys.readouterr().err
    assert not (folder / "runs/small-seed3/results.json").exists()


def test_recipes_that_come_with_mtpeft() -> None:
    """The comparison has every joint recipe but those with a paper's own settings as a row; all share one budget."""
    names = [name for name in recipe_names() if name.startswith("joint/")]
    comparison, papers = load_recipe("joint/compare_sharing"), [name for name in names if name.endswith("_paper")]
    assert {*comparison["rows"], *papers, "joint/compare_sharing"} == set(names)
    assert comparison["reference"] in comparison["rows"]
    rows = [load_recipe(name) for name in (*comparison["rows"], *papers)]
    for key in ("steps", "batch_size"):
        assert len({row["training"][key] for row in rows}) == 1
    for row in rows:
        assert (row["tasks"], row["data"], row["head"]) == (rows[0]["tasks"], rows[0]["data"], rows[0]["head"])
