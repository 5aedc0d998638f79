"""Predictions of joint runs: the metrics of the run's evaluation, maps as files, the best checkpoint, several tasks at once."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from squares import TASKS, Squares, make_recipe, train

import mtpeft
from mtpeft.cli.main import main
from mtpeft.errors import ConfigError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run with a best checkpoint, and its results."""
    folder = tmp_path_factory.mktemp("joint") / "run"
    single = {"semseg": 30.0, "depth": 1.0, "normals": 30.0}
    recipe = make_recipe(validation={"share": 0.25}, single_task=single, method="vmt_adapter")
    del recipe["sharing"]
    _, results = train(recipe, folder)
    assert results is not None
    return folder, results


def test_maps_have_the_metrics_of_the_run(finished: tuple[Path, dict[str, Any]]) -> None:
    """All tasks of all validation images, in one pass."""
    folder, results = finished
    predictor = mtpeft.load_run(folder, "cpu")
    assert predictor.manager.single_pass and predictor.tasks == list(TASKS)
    squares = Squares("val")
    found: Any = predictor.predict([squares[k].image for k in range(len(squares))])
    for task in TASKS:
        kind = found[0][task].kind
        measure = kind.measure()
        for k, one in enumerate(found):
            measure.update(one[task].output[None], kind.layout.tensor(squares[k].labels[task])[None])
        for metric, value in measure.compute().items():
            assert value == pytest.approx(results["final"][task][metric], rel=1e-6), metric
    alone: Any = predictor.predict(squares[0].image, "depth")[0]
    assert torch.allclose(alone.output, found[0]["depth"].output, atol=1e-5)
    assert alone.values.shape == (32, 32) and alone.values.dtype == np.float32


def test_the_best_checkpoint_is_another_model(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, results = finished
    assert results["best"] is not None and (folder / "best/tasks.json").is_file()
    image = Squares("val")[0].image
    best: Any = mtpeft.load_run(folder, "cpu", best=True).predict(image, "depth")[0]
    last: Any = mtpeft.load_run(folder, "cpu").predict(image, "depth")[0]
    assert torch.equal(best.output, last.output) == (results["best"]["step"] == 8)


def test_maps_as_files(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the picture's own size, in the task's colours; the same name in two folders is two files."""
    folder, _ = finished
    for place, size in (("a", (40, 56)), ("b", (64, 32))):
        (tmp_path / "in" / place).mkdir(parents=True)
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(tmp_path / "in" / place / "x.png")
    out = tmp_path / "out"
    command = ["predict", str(folder), str(tmp_path / "in"), "--out", str(out), "--task", "semseg", "--task", "depth"]
    assert main(command) == 0
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert [(Path(row["input"]).parent.name, row["task"]) for row in rows] == [
        ("a", "semseg"), ("a", "depth"), ("b", "semseg"), ("b", "depth"),
    ]  # fmt: skip
    assert rows[0]["map"] == "a/x.png.semseg.png" and rows[3]["values"] == "b/x.png.depth.npy"
    predictor = mtpeft.load_run(folder, "cpu")
    for row in rows:
        expected: Any = predictor.predict(row["input"], tasks=["semseg", "depth"])[0][row["task"]]  # type: ignore[index]
        values = np.load(out / row["values"])
        assert values.shape[:2] == expected.image.shape[:2] and (values == expected.values).all()
        assert (np.asarray(Image.open(out / row["map"])) == expected.picture).all()
        assert np.asarray(Image.open(out / row["overlay"])).shape == expected.image.shape
    shares = [float(row["share"]) for row in rows if row["task"] == "semseg"]
    assert all(0 < share <= 1 for share in shares) and rows[0]["value"].split()[-1] in ("ground", "red", "blue")
    capsys.readouterr()
    assert main(["predict", str(folder), str(tmp_path / "in/a/x.png")]) == 0
    table = capsys.readouterr().out
    assert all(task in table for task in TASKS) and "share" in table


def test_a_run_per_task_names_its_runs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    recipe = {"name": "apart", "separate": True, "tasks": {"semseg": {}, "depth": {}}}
    (tmp_path / "run/config.py").write_text(f"recipe = {recipe!r}\n")
    (tmp_path / "run/results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"has a model for each task: name one of .*run/semseg, .*run/depth"):
        mtpeft.load_run(tmp_path / "run")


def test_the_data_are_not_needed(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A moved run folder predicts where its data set is not even registered."""
    from mtpeft.data.dense import DENSE_DATASETS

    folder, _ = finished
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    DENSE_DATASETS.discard("squares")
    try:
        assert mtpeft.load_run(moved, "cpu").predict(Squares("val")[0].image)
    finally:
        DENSE_DATASETS.add("squares", Squares)
