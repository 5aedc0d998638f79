"""Two gloo processes: the same weights as one process with the same global batch, written by the first one only.

One start of torchrun runs all recipes one after the other, each as the command line would.
"""

from __future__ import annotations

import json
import os
import pprint
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from squares import make_recipe, train

from mtpeft.evaluation import read

CASES: dict[str, dict[str, Any]] = {
    # with two samples a group each process draws one task of its own, and weights of the third have no gradient
    "drawn": {
        "method": {"name": "adaptformer", "bottleneck_dim": 4, "dropout": 0.0},
        "sharing": "per_task",
        "sampler": {"name": "uniform", "group": 2},
        "data": {"missing": 3, "empty": True},
        "single_task": {"semseg": 40.0, "depth": 1.0, "normals": 20.0},
    },
    # ranks are drawn alike in both processes, scored by the gradients of both, and deleted at the end of an epoch of 3 steps
    "paced": {
        "method": {"name": "faar", "rank": 8, "task_rank": 6, "coverage": 0.7, "momentum": 0.5},
        "sharing": None,
        "data": {"missing": 3},
    },
    "pcgrad": {"weighting": {"name": "pcgrad"}, "training": {"accumulate": 2}},
    "uncertainty": {"weighting": {"name": "uncertainty"}, "training": {"clip": 0.5}},
}
DIVERGING: dict[str, Any] = {
    "tasks": {"normals": {}, "depth": {}},
    "training": {"steps": 50, "optimizer": {"type": "SGD", "lr": 1e30}, "warmup": 0.0},
    "checkpoint": {"interval": 1},
}
#: what is wrong in the second process alone, and what the first one says of it
BROKEN = {
    "build": "no squares here",
    "read": "square train cannot be read",
    "measure": "square val cannot be read",
    "bug": "process 1 failed: ZeroDivisionError: a mistake in the code",
}
FAILING = ("diverging", *(f"broken_{place}" for place in BROKEN))
WORKER = """
import os, pathlib, sys
from mtpeft.cli.main import main
folder = pathlib.Path(sys.argv[1])
for file in sorted(folder.glob("*.py")):
    if file.name != "worker.py":
        try:
            code = main(["train", str(file), "--out", str(folder / file.stem)])
        except ZeroDivisionError:
            code = "bug"
        os.write(1, f"exit {file.stem} {code}\\n".encode())  # in one piece: two processes write here
"""


def recipe_of(name: str) -> dict[str, Any]:
    """A run without dropout, whose random numbers differ between processes."""
    changes = {**CASES.get(name, {}), **(DIVERGING if name == "diverging" else {})}
    if name.startswith("broken_"):
        changes = {"data": {"broken": name.removeprefix("broken_")}}
    if name == "separate":
        changes = {"separate": True, "tasks": {"depth": {}, "normals": {}}, "training": {"steps": 2}}
    training = {"steps": 4, "eval_every": 2, "optimizer": {"type": "SGD", "lr": 0.003}, **changes.pop("training", {})}
    common = {"method": {"name": "lora", "rank": 4}, "imports": [str(Path(__file__).with_name("squares.py"))]}
    return make_recipe(**{"name": name, **common, **changes, "training": training})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """All recipes in two processes: the folder of the runs, and what torchrun printed."""
    folder = tmp_path_factory.mktemp("two")
    for name in (*CASES, *FAILING, "separate"):
        lines = [f"{key} = {pprint.pformat(value, sort_dicts=False)}" for key, value in recipe_of(name).items()]
        (folder / f"{name}.py").write_text("\n".join(lines))
    (folder / "worker.py").write_text(WORKER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(folder / "worker.py"), str(folder)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(next((out / "model").glob("*.safetensors")))


@pytest.mark.parametrize("name", CASES)
def test_equals_one_process(name: str, runs: tuple[Path, Any], tmp_path: Path) -> None:
    """Weights after four steps, which moved far more than the tolerance; measures; skipped labels; one writer."""
    folder, _ = runs
    experiment, first = train(recipe_of(name), tmp_path / "one")
    assert first is not None
    started = type(experiment)(recipe_of(name)).manager.trained_state()
    one, two = weights(tmp_path / "one"), weights(folder / name)
    assert one.keys() == two.keys() == started.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
    assert max(float((one[k] - started[k]).abs().max()) for k in one) > 1e-4
    second = read(folder / name / "results.json")
    assert first["skipped"] == second["skipped"]
    for task, value in first["main"].items():
        assert second["main"][task] == pytest.approx(value, rel=1e-3)
    events = [json.loads(line)["event"] for line in (folder / name / "log.jsonl").read_text().splitlines()]
    assert [events.count(e) for e in ("start", "evaluate", "done")] == [1, 2, 1]


def test_processes_drew_different_tasks(runs: tuple[Path, Any]) -> None:
    """The case above is not one task in both processes at every step."""
    from mtpeft.joint.sampler import TaskSampler

    pairs = []
    for step in range(4):
        sampler = TaskSampler([12], dict.fromkeys(("semseg", "depth", "normals"), 0), 4, 1, 3, "uniform", group=2)
        plan = [plan for plan, _ in zip(sampler, range(4), strict=False)][step]
        pairs.append((plan.parts[0][0].tasks, plan.parts[0][2].tasks))
    assert any(a != b for a, b in pairs)


def test_separate_runs(runs: tuple[Path, Any]) -> None:
    """One run after the other in both processes, one results.json."""
    folder, done = runs
    assert done.stdout.count("exit separate 0") == 2
    results = read(folder / "separate/results.json")
    assert set(results["main"]) == {"depth", "normals"} and (folder / "separate/report.html").is_file()
    assert done.stdout.count("separate_depth: ") == 1  # the second process says nothing


def test_a_non_finite_loss_stops_all_processes(runs: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Both end with exit code 2, the first says why; nothing hangs, and the next command would resume."""
    folder, done = runs
    assert done.stdout.count("exit diverging 2") == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("mtpeft: ")]
    assert len(lines) == len(FAILING), done.stderr
    (line,) = [line for line in lines if "'depth'" in line]
    assert line.startswith("mtpeft: step 2: ") and "the checkpoint of step 1 is kept" in line
    assert not (folder / "diverging/results.json").exists()


@pytest.mark.parametrize("place", BROKEN)
def test_an_error_of_one_process_stops_all(place: str, runs: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Said once, by the first; exit code 2, but for the process whose own code is at fault."""
    folder, done = runs
    codes = sorted(line.split()[-1] for line in done.stdout.splitlines() if line.startswith(f"exit broken_{place} "))
    assert codes == (["2", "bug"] if place == "bug" else ["2", "2"]), done.stdout
    assert done.stderr.count(f"mtpeft: {BROKEN[place]}\n") == 1, done.stderr
    assert not (folder / f"broken_{place}/results.json").exists()


def test_only_the_first_process_speaks(runs: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """One line for every error, one warning of each sort, nothing of the second process's, and no bar in a pipe."""
    _, done = runs
    assert "a warning of process 1" not in done.stderr and "a warning of process 0" in done.stderr
    assert "\r" not in done.stdout + done.stderr
    for name in CASES:
        assert done.stdout.count(f"{name}: /") == 1
    own = [line for line in done.stderr.splitlines() if line.startswith("mtpeft: ")]
    assert len(own) == len(set(own)) == len(FAILING), done.stderr
