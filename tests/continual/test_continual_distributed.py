"""Two gloo processes: the results of one process, written by the first one only; errors and deaths that end all.

One start of torchrun runs several recipes one after the other, each as the command line would.
"""

from __future__ import annotations

import json
import os
import pprint
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_recipe import make_recipe
from small_runs import train
from tiles import changed_stream, make_dense

from mtpeft.continual.experiment import Experiment
from mtpeft.continual.strategy import ContinualStrategy
from mtpeft.errors import ConfigError
from mtpeft.runs.state import State

#: without dropout, whose random numbers differ between processes
LORA = {"method": {"name": "lora", "rank": 4, "dropout": 0.0}}
#: frozen backbones have equal fingerprints; momentum is that of scores
PACED = {"name": "faar", "rank": 8, "task_rank": 6, "coverage": 0.7, "momentum": 0.5, "train_backbone": False}
STREAM = {**make_recipe()["stream"], "num_tasks": 2, "train_per_class": 4, "test_per_class": 5}
CLASS = {**STREAM, "type": "class_incremental"}
TRAINING = {"epochs": 1, "batch_size": 7, "optimizer": {"type": "SGD", "lr": 0.05}, "schedule": "cosine"}
TILES = str(Path(__file__).with_name("tiles.py"))


def case(training: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A run of two tasks of 20 images, 3 steps each; `changes` replace keys."""
    changes = {**LORA, "stream": STREAM, "checkpoint": {"interval": 1}, **changes}
    return make_recipe(**changes, training={**TRAINING, **(training or {})})


def dense(**data: Any) -> dict[str, Any]:
    """Depth, which every third image lacks, then normals; a last batch of one image leaves a process without any."""
    stream = changed_stream(data={"name": "tiles", "missing": 3, **data}, tasks=["depth", "normals"])
    return make_dense(**LORA, stream=stream, training={**TRAINING, "batch_size": 11}, imports=[TILES])


CASES: dict[str, dict[str, Any]] = {
    "augmented_accumulate": case({"accumulate": 2, "clip": 1.0}, augment={"flip": True, "crop_padding": 2}),
    "ewc_class": case(stream=CLASS, plugins=[{"type": "EWCPlugin", "ewc_lambda": 100.0}]),
    "dense_missing": dense(),
    "fitted": case(method={"name": "gps"}, sharing="per_task"),
    "paced": case(method=PACED, sharing=None),
    "pool": case(
        {"accumulate": 2},
        method={"name": "vpt_shallow", "num_tokens": 2},
        sharing={"name": "pool", "size": 4, "top_k": 2, "key_loss": 1.0, "orthogonality": 0.1, "frequency": True},
        stream=CLASS,
    ),
    "replay": case(stream=CLASS, plugins=[{"type": "ReplayPlugin", "mem_size": 6}]),
}
SLOW: dict[str, dict[str, Any]] = {
    "a_gem": case(plugins=[{"type": "AGEMPlugin", "patterns_per_experience": 4, "sample_size": 4}]),
    "alignment": case(
        {"loss": "local_cross_entropy", "margin": 0.1},
        stream={**CLASS, "head": {"name": "growing", "kind": "cosine"}},
        plugins=[{"type": "ClassifierAlignment", "samples": 8, "drift": "semantic"}],
    ),
    "early_stopping": case(
        {"eval_every": 1, "epochs": 4},
        stream={**CLASS, "validation": {"share": 0.25}},
        plugins=[{"type": "EarlyStoppingPlugin", "patience": 1}],
    ),
    "lae": case(sharing="averaged", stream=CLASS, plugins=[{"type": "LAE", "momentum": 0.9, "frozen_epochs": 1}]),
    "lwf": case(stream=CLASS, plugins=[{"type": "LwFPlugin", "alpha": 1.0, "temperature": 2.0}]),
    "mas": case(plugins=[{"type": "MASPlugin", "lambda_reg": 1.0}]),
    "pull": case(sharing="per_task", plugins=[{"type": "PullToEarlier"}]),
    "si": case(plugins=[{"type": "SynapticIntelligencePlugin", "si_lambda": 1.0}]),
    "workers": case({"workers": 1}),
}
WORKER = """
import itertools, os, pathlib, signal, sys
from mtpeft.cli.main import main
from mtpeft.continual.strategy import ContinualStrategy
folder = pathlib.Path(sys.argv[1])
steps, step = itertools.count(1), ContinualStrategy.optimizer_step
def dying(self):
    if next(steps) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self)
if "DIES" in os.environ and os.environ["RANK"] == "1":
    ContinualStrategy.optimizer_step = dying
for file in sorted(folder.glob("*.py")):
    if file.name != "worker.py":
        code = main(["continual", str(file), "--out", str(folder / file.stem)])
        os.write(1, f"exit {file.stem} {code}\\n".encode())  # in one piece: two processes write here
"""


def start(folder: Path, recipes: dict[str, dict[str, Any]], **environment: str) -> subprocess.Popen[str]:
    """Run recipes in two processes."""
    for name, recipe in recipes.items():
        lines = [f"{key} = {pprint.pformat(value, sort_dicts=False)}" for key, value in recipe.items()]
        (folder / f"{name}.py").write_text("\n".join(lines))
    (folder / "worker.py").write_text(WORKER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, str(folder / "worker.py"), str(folder)], text=True, env=own, **pipes)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; one that hangs is ended, with the processes it started, and fails."""
    try:
        out, err = process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(timeout=90)  # torchrun kills its processes 30 seconds after it has asked them to end
        raise
    return process.returncode, out, err


def agree(one: Any, two: Any, path: str = "results") -> None:
    """The same values, numbers up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            agree(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), path
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            agree(a, b, f"{path}[{i}]")
    else:
        assert two == (pytest.approx(one, rel=1e-4, abs=1e-6) if isinstance(one, float) else one), path


def check_equal(recipe: dict[str, Any], two: Path, one: Path) -> None:
    """The run in `two` is that of one process, which is made in `one`: its results, and weights that moved far more."""
    _, results = train(recipe, one)
    assert results is not None
    agree(results, json.loads((two / "results.json").read_text()))
    before = Experiment(recipe).manager.trained_state()
    weights, found = (load_file(next((path / "model").glob("*.safetensors"))) for path in (one, two))
    assert weights.keys() == found.keys()
    for key, value in weights.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=5e-6, msg=lambda m, k=key: f"{k}: {m}")
    assert max(float((weights[k].float() - before[k].float()).abs().max()) for k in before) > 1e-3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, str, str]]:
    """The quick cases, one that a single process began, and one that fails, in two processes: folder and output."""
    folder = tmp_path_factory.mktemp("two")
    begun = case(name="begun")
    train(begun, folder / "begun", kill_at=3)
    named = {name: {**recipe, "name": name} for name, recipe in CASES.items()}
    return folder, ended(start(folder, {**named, "begun": begun, "broken": {**dense(broken=True), "name": "broken"}}))


@pytest.mark.parametrize("name", CASES)
def test_equals_one_process(name: str, runs: tuple[Path, Any], tmp_path: Path) -> None:
    """Batches that processes share unequally, memories, importances, labels that are missing; one writer."""
    folder, (code, out, err) = runs
    assert code == 0 and out.count(f"exit {name} 0") == 2, err
    check_equal({**CASES[name], "name": name}, folder / name, tmp_path)
    events = [json.loads(line)["event"] for line in (folder / name / "log.jsonl").read_text().splitlines()]
    assert [events.count(e) for e in ("start", "task", "done")] == [1, 2, 1]


def test_two_processes_go_on_where_one_was_killed(runs: tuple[Path, Any], tmp_path: Path) -> None:
    folder, (_, out, err) = runs
    assert out.count("resuming at experience 1, epoch 1") == 1, err
    check_equal(case(name="begun"), folder / "begun", tmp_path)


def test_an_error_of_one_process_stops_all(runs: tuple[Path, Any]) -> None:
    """Said once, by the first; nothing else of the second is heard."""
    folder, (_, out, err) = runs
    assert out.count("exit broken 2") == 2
    own = [line for line in err.splitlines() if line.startswith("mtpeft: ")]
    assert own == ["mtpeft: train tiles cannot be read in process 1"], err
    assert not (folder / "broken/results.json").exists()
    assert "\r" not in out + err and out.count("broken: /") == 1


def test_a_killed_process_ends_all_and_the_run_goes_on(tmp_path: Path) -> None:
    """SIGKILL to the second in the second task: one line, no results; one process goes on to its own results."""
    recipe = case(name="killed")
    code, _, err = ended(start(tmp_path, {"killed": recipe}, DIES="1"))
    assert code != 0
    own = [line for line in err.splitlines() if line.startswith("mtpeft: ")]
    assert len(own) == 1 and own[0].startswith("mtpeft: one of the 2 processes has ended"), err
    assert own[0].endswith("the same command goes on from the last checkpoint")
    state = State(tmp_path / "killed/checkpoints").read()
    assert state is not None and state["position"]["experience"] == 1
    _, results = train(recipe, tmp_path / "killed")
    assert results is not None
    check_equal(recipe, tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_every_plugin_and_setting(tmp_path: Path) -> None:
    """As the quick cases, for the rest."""
    code, out, err = ended(start(tmp_path, {name: {**recipe, "name": name} for name, recipe in SLOW.items()}))
    assert code == 0, err
    for name, recipe in SLOW.items():
        assert out.count(f"exit {name} 0") == 2, err
        check_equal({**recipe, "name": name}, tmp_path / name, tmp_path / "one" / name)


@pytest.mark.slow
def test_a_signal_saves_the_step_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """SIGTERM to torchrun: all stop after the same step; with dropout, the results are those of a run left alone."""
    recipe = {**case({"epochs": 40}), "method": {"name": "lora", "rank": 4, "dropout": 0.1}, "name": "stopped"}
    (tmp_path / "whole").mkdir()
    assert ended(start(tmp_path / "whole", {"stopped": recipe}))[0] == 0
    process, state = start(tmp_path, {"stopped": recipe}), State(tmp_path / "stopped/checkpoints")
    while not state.exists and process.poll() is None:
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    _, out, err = ended(process)
    assert "interrupted; the same command goes on from here" in out, err
    assert not (tmp_path / "stopped/results.json").exists()
    assert ended(start(tmp_path, {"stopped": recipe}))[0] == 0
    results = [(path / "stopped/results.json").read_bytes() for path in (tmp_path, tmp_path / "whole")]
    assert results[0] == results[1]


def test_plugins_must_say_that_they_work_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from avalanche.training.plugins import SupervisedPlugin

    class Mine(SupervisedPlugin):
        pass

    class Ready(SupervisedPlugin, supports_distributed=True):
        pass

    experiment = Experiment(case())
    parts = {"model": experiment.model, "stream": experiment.stream, "training": experiment.training}
    monkeypatch.setattr("mtpeft.continual.processes.world", lambda: 2)
    with pytest.raises(ConfigError, match="plugin 'Mine' does not say that it works in several processes"):
        ContinualStrategy(**parts, plugins=[Mine()])
    ContinualStrategy(**parts, plugins=[Ready()])
