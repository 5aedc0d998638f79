"""A run that is killed and started again ends with the same results.json, byte for byte."""

from __future__ import annotations

import json
import os
import pprint
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_recipe import make_recipe
from small_runs import train

from mtpeft.errors import CheckpointError
from mtpeft.runs.state import State

CLASS = {**make_recipe()["stream"], "type": "class_incremental"}
FEW = {**{key: value for key, value in CLASS.items() if key != "num_tasks"}, "classes_per_task": 2}
PICTURES = {"scale": [0.3, 1.0], "auto_augment": "rand-m5-mstd0.5", "re_prob": 0.3, "flip": True}
RUNS: dict[str, dict[str, Any]] = {
    "shared lora": {},
    "adapters per task": {"method": {"name": "adaptformer", "bottleneck_dim": 4}, "sharing": "per_task"},
    "full": {"method": "full"},
    "mas": {"plugins": [{"type": "MASPlugin", "lambda_reg": 1.0}]},
    "early stopping": {
        "stream": {**CLASS, "validation": {"share": 0.25}},
        "plugins": [{"type": "EarlyStoppingPlugin", "patience": 1}],
        "training": {**make_recipe()["training"], "epochs": 3, "eval_every": 1},
    },
    "lae, class-incremental": {
        "stream": CLASS,
        "sharing": "averaged",
        "plugins": [{"type": "LAE", "momentum": 0.9, "frozen_epochs": 1}],
    },
    "ewc": {"plugins": [{"type": "EWCPlugin", "ewc_lambda": 10.0}]},
    "si": {"plugins": [{"type": "SynapticIntelligencePlugin", "si_lambda": 1.0}]},
    "lwf, class-incremental": {"stream": CLASS, "plugins": [{"type": "LwFPlugin", "alpha": 1.0, "temperature": 2.0}]},
    "replay, class-incremental": {"stream": CLASS, "plugins": [{"type": "ReplayPlugin", "mem_size": 20}]},
    "long tail, class-incremental": {"stream": {**CLASS, "imbalance_factor": 4}},
    "few shots after a base task, class-incremental": {"stream": {**FEW, "base_classes": 4, "shots": 5}},
    "pictures changed one by one": {"augment": PICTURES},
    "pictures changed one by one, replay": {
        "augment": PICTURES,
        "stream": CLASS,
        "plugins": [{"type": "ReplayPlugin", "mem_size": 20}],
    },
    "mixed labels": {
        "augment": {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1},
        "stream": {**make_recipe()["stream"], "num_tasks": 1, "train_per_class": 32},
    },
    "two batches a step, float16": {
        "training": {**make_recipe()["training"], "batch_size": 8, "accumulate": 2, "amp": "float16", "clip": 1.0}
    },
    "a-gem": {"plugins": [{"type": "AGEMPlugin", "patterns_per_experience": 8, "sample_size": 8}]},
}


@pytest.mark.parametrize("name", RUNS)
def test_killed_run_ends_the_same(name: str, tmp_path: Path) -> None:
    """20 steps in all, 4 a task; killed inside the second task and once more, off the checkpoint interval."""
    recipe = make_recipe(**RUNS[name])
    _, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    for kill_at in (7, 3):  # counted from each start; with coarse checkpoints a start repeats its task
        assert train(recipe, tmp_path / "killed", kill_at)[1] is None
    state = State(tmp_path / "killed" / "checkpoints").read()
    assert state["position"]["experience"] in ((1, 2) if name != "mixed labels" else (0,))
    _, resumed = train(recipe, tmp_path / "killed")
    assert resumed is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


def test_sigkill(tmp_path: Path) -> None:
    """The real thing: a process killed in the middle of a task, and the same command again."""
    recipe = make_recipe(training={**make_recipe()["training"], "epochs": 8}, checkpoint={"interval": 1})
    file = tmp_path / "small.py"
    file.write_text("\n".join(f"{key} = {pprint.pformat(value)}" for key, value in recipe.items()))
    command = [sys.executable, "-m", "mtpeft.cli.main", "continual", str(file), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MTPEFT_RUNS": str(tmp_path)}
    done = subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True, env=environment)
    assert b"\r" not in done.stdout + done.stderr and len((done.stdout + done.stderr).splitlines()) < 60  # 160 steps
    victim = subprocess.Popen(
        [*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    state = tmp_path / "killed/checkpoints"
    try:
        while not (1, 2) < _position(state) < (2, 0):
            assert victim.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert not (tmp_path / "killed/results.json").exists()
    subprocess.run([*command, str(tmp_path / "killed"), "--resume"], check=True, capture_output=True, env=environment)
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    events = [json.loads(line)["event"] for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    assert events.count("start") == 1 and events.count("resume") == 1


def test_interrupt_saves_the_step(tmp_path: Path) -> None:
    """Asked to stop, a run saves the running step and goes on from there."""
    from mtpeft.continual.experiment import Experiment
    from mtpeft.runs.folder import RunFolder

    recipe = make_recipe(checkpoint={"interval": 1000})
    _, whole = train(recipe, tmp_path / "whole")
    experiment = Experiment(recipe)
    clock = experiment.strategy.clock
    assert experiment.run(RunFolder(tmp_path / "stopped", recipe), lambda: clock.train_iterations == 5) is None
    assert State(tmp_path / "stopped/checkpoints").read()["position"] == {"experience": 1, "epoch": 0, "batch": 1}
    assert train(recipe, tmp_path / "stopped")[1] == whole


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe()
    train(recipe, tmp_path / "run", kill_at=5)
    tensors = next((tmp_path / "run/checkpoints").glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-7] + b"damaged")
    with pytest.raises(CheckpointError, match=r"is damaged .*; start again with --fresh"):
        train(recipe, tmp_path / "run")


def _position(folder: Path) -> tuple[int, int]:
    """Where the saved state stands; (0, 0) while the process has a part of it under its hands."""
    try:
        found = (State(folder).read() or {"position": {"experience": 0, "epoch": 0, "batch": 0}})["position"]
    except CheckpointError:
        return 0, 0
    return found["experience"], found["batch"] + found["epoch"]
