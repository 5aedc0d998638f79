"""A run that is killed and started again ends with the same results.json, byte for byte."""

from __future__ import annotations

import os
import pprint
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from squares import make_recipe, train

from mtpeft.errors import CheckpointError
from mtpeft.runs.state import State

RUNS: dict[str, dict[str, Any]] = {
    "per task, tasks drawn": {
        "method": {"name": "adaptformer", "bottleneck_dim": 4},
        "sharing": "per_task",
        "sampler": {"name": "uniform"},
        "transforms": {"train": [{"name": "flip"}], "val": []},
        "single_task": {"semseg": 40.0, "depth": 1.0, "normals": 20.0},
    },
    "full, uncertainty, accumulation": {
        "method": "full",
        "sharing": None,
        "weighting": {"name": "uncertainty"},
        "training": {"accumulate": 2, "batch_size": 2},
    },
    "dwa, missing labels, float16": {
        "weighting": {"name": "dwa", "window": 2},
        "data": {"missing": 3, "empty": True},
        "training": {"amp": "float16", "clip": 1.0},
    },
    "pcgrad, SGD, workers": {
        "weighting": {"name": "pcgrad"},
        "training": {"optimizer": {"type": "SGD", "lr": 0.003, "momentum": 0.9}, "schedule": "poly", "workers": 1},
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_killed_run_ends_the_same(name: str, tmp_path: Path) -> None:
    """8 steps, a checkpoint every other one; killed after one, off the interval, and once more."""
    recipe = make_recipe(**RUNS[name])
    _, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    for kill_at, saved in ((4, 2), (3, 4)):
        assert train(recipe, tmp_path / "killed", kill_at)[1] is None
        assert State(tmp_path / "killed/checkpoints").read()["step"] == saved
    resumed, results = train(recipe, tmp_path / "killed")
    assert results is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    files = [{f.name: f.read_bytes() for f in (tmp_path / run / "pictures").iterdir()} for run in ("whole", "killed")]
    assert files[0] == files[1] and len(files[0]) == 1 + 3 * 2 * 3
    if not recipe["training"].get("workers"):  # the last start read the training samples of its own steps only
        own = 4 * resumed.training.batch_size * resumed.training.accumulate
        conflict = recipe["training"]["batch_size"]
        shown = 1  # whose size is that of all, in what is told of memory
        assert len(resumed.data.train[0].dataset.reads) == own + conflict + shown


def test_stop_saves_off_the_interval(tmp_path: Path) -> None:
    """Ctrl-C: the state of the step that ran is saved, and the same command goes on."""
    from mtpeft.joint.experiment import JointExperiment
    from mtpeft.runs.folder import RunFolder

    recipe = make_recipe(checkpoint={"interval": 100})
    asked: list[bool] = []
    experiment = JointExperiment(recipe)
    experiment.progress.step = lambda: asked.append(True)
    assert experiment.run(RunFolder(tmp_path / "run", recipe), lambda: len(asked) == 3) is None
    assert State(tmp_path / "run/checkpoints").read()["step"] == 3
    assert train(recipe, tmp_path / "run")[1] == train(recipe, tmp_path / "whole")[1]


def test_sigkill(tmp_path: Path) -> None:
    """The real thing: a process killed between two checkpoints, and the same recipe again."""
    recipe = make_recipe(
        imports=[str(Path(__file__).with_name("squares.py"))],
        tasks={"depth": {}, "normals": {}},
        training={"steps": 20, "eval_every": 10},
        checkpoint={"interval": 1},
    )
    file = tmp_path / "small.py"
    file.write_text("\n".join(f"{key} = {pprint.pformat(value, sort_dicts=False)}" for key, value in recipe.items()))
    command = [sys.executable, "-m", "mtpeft.cli.main", "train", str(file), "--out", str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    state = tmp_path / "killed/checkpoints"
    try:
        while not _step(state) > 2:
            assert victim.poll() is None, victim.communicate()[1].decode()
            time.sleep(0.01)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert not (tmp_path / "killed/results.json").exists()
    assert 2 < _step(state) < 20
    train(recipe, tmp_path / "killed")
    train(recipe, tmp_path / "whole")
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


def _step(folder: Path) -> int:
    """The saved step; 0 while the process has a part of the state under its hands."""
    try:
        return (State(folder).read() or {"step": 0})["step"]
    except CheckpointError:
        return 0
