"""`mtpeft sweep`: mistakes before anything starts, and real sweeps that fail in part, choose, and are killed (slow)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtpeft.cli.main import main
from mtpeft.methods import METHODS
from mtpeft.runs.recipe import load_recipe
from mtpeft.runs.sweep import pool
from mtpeft.runs.sweep.every_method import every_method, spelled
from mtpeft.runs.sweep.grid import Axis
from mtpeft.runs.sweep.results import read_sweep

ROOT = Path(__file__).parents[2]
RECIPE = """
seed = 0
backbone = dict(name="vit_mini_patch4_32", pretrained=False, options=dict(depth=2, patch_size=8))
method = dict(name="lora", rank=4)
sharing = "shared"
stream = dict(type="task_incremental", data=dict(type="Digits"), num_tasks=2, train_per_class=12, test_per_class=8)
training = dict(epochs=1, batch_size=4, optimizer=dict(type="AdamW", lr=1e-3))
baselines = False
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "digits.py").write_text(RECIPE)
    return str(tmp_path / "digits.py")


BAD = [
    (["--grid", "training.lr=1,2"], "training.lr is now training.optimizer.lr"),
    (["--grid", "training.epoch=1,2"], "nothing reads the key training.epoch."),
    (["--grid", "trainin.epochs=1,2"], "the recipe has no trainin. Did you mean 'training'"),
    (["--grid", "epochs=1,2"], "nothing reads the key epochs"),
    (["--grid", "training.optimizer.lr="], "a value is empty"),
    (["--grid", "training.optimizer.lr=1e-3,-1"], "training.optimizer.lr"),
    (["--grid", "method=lora,lorra"], "unknown method 'lorra'"),
    (["--grid", "method=lora,ssf", "--grid", "method.rank=2,4"], "method 'ssf'"),
    (["--set", "stream.data.type=Digit"], "Digit"),
    (["--set", "rows=['fashion_lora']"], "is a comparison of rows"),
    (["--grid", "method=all", "--grid", "method.rank=2"], "method 'adapter_bias'"),
    (["--grid", "method=all", "--set", "backbone.name=vit_minni"], "vit_minni"),
    (["--grid", "method=all", "--set", "sharing=polly"], "no method can be attached: "),
    (["--orders", "2", "--set", "stream.type=domain_incremental"], "--orders is for streams"),
    (["--set", "device=cuda"], "give each run --gpus 1"),
    (["--out", "FILE/sweep"], "cannot write into"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_mistakes_are_one_line_before_anything_starts(arguments, message, recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MTPEFT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(pool, "open_ray", None)
    assert main(["sweep", recipe, *(part.replace("FILE", recipe) for part in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("mtpeft: ") and "\n" not in error
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_swept(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MTPEFT_RUNS", str(tmp_path / "runs"))
    assert main(["sweep", "joint/compare_sharing"]) == 2
    assert "is a comparison of rows" in capsys.readouterr().err
    assert main(["sweep", "vit_mini"]) == 2
    assert "pre-trains a backbone" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["sweep", "fashion_lora"]) == 2
    assert "a sweep is one process's work" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_all_methods_are_those_the_backbone_takes(recipe):
    grid = ["training.epochs=1,2", "method=all,{'name': 'vp', 'prompt_size': 4}"]
    axes, refused = spelled([Axis.parse(text) for text in grid], load_recipe(recipe, ["sharing=None"]))
    names = [value["name"] for value in axes[1].values]
    assert axes[0] == Axis("training.epochs", (1, 2)) and axes[1].values[-1] == {"name": "vp", "prompt_size": 4}
    assert sorted([*names, *refused]) == sorted(METHODS) and {"lora", "full", "vpt_deep", "vmt_adapter"} <= set(names)
    assert "prompt_size=30 does not fit images of 32 x 32" in refused["evp"]
    assert "Swin's windows" in refused["tadformer"]
    assert all("\n" not in reason and f"method '{name}'" in reason for name, reason in refused.items())


def test_without_ray_the_extra_is_named(recipe, tmp_path, capsys, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else find(name, *a))
    assert main(["sweep", recipe, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "mtpeft: a sweep needs Ray: pip install 'mtpeft[ray]'\n"
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_runs_is_refused(recipe, tmp_path, capsys):
    from mtpeft.runs.folder import RunFolder
    from mtpeft.runs.recipe import load_recipe

    RunFolder(tmp_path / "out/digits-seed0", load_recipe(recipe, ["training.batch_size=8"])).open()
    assert main(["sweep", recipe, "--out", str(tmp_path / "out")]) == 2
    assert "holds a run of another recipe, which differs in training.batch_size" in capsys.readouterr().err


def sweep(recipe: str, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mtpeft.cli.main", "sweep", recipe, "--out", str(out), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_every_method_is_refused_by_what_its_run_would_be(recipe: str) -> None:
    """Drop path does nothing on a frozen backbone in eval mode; each refusal leaves the backbone for the next method."""
    content = load_recipe(recipe, ["backbone.options.drop_path_rate=0.1", "sharing=None"])
    taken, refused = every_method(content, set())
    assert taken == ["full"]
    assert "drop_path_rate=0.1 does nothing" in refused["lora"] and "does nothing" in refused["vpt_deep"]


@pytest.mark.slow
def test_settings_are_chosen_on_validation_data_and_one_run_fails(recipe, tmp_path):
    """Two rates of two methods, of which one rate makes the loss infinite: its runs are named, the rest is tested."""
    out = tmp_path / "out"
    grid = ["--grid", "method=lora,bitfit", "--grid", "training.optimizer.lr=1e-3,1e30", "--select", "validation"]
    done = sweep(recipe, out, *grid, "--set", 'stream.validation={"share": 0.25}')
    assert done.returncode == 1, done.stderr
    content = read_sweep(out)
    assert content["select"] == {"share": 0.25}
    for setting in content["settings"]:
        (run,), good = setting["validation"], setting["values"]["training.optimizer.lr"] == 1e-3
        assert setting["chosen"] == good == (run["reason"] is None) == (len(setting["test"]) == 1)
        held = json.loads((out / run["folder"] / "results.json").read_text()) if good else None
        if held is not None:  # 12 of each of 5 classes, a quarter held out; the test part has 8 of each
            assert [task["test_samples"] for task in held["tasks"]] == [15, 15]
            tested = json.loads((out / setting["test"][0]["folder"] / "results.json").read_text())
            assert [task["test_samples"] for task in tested["tasks"]] == [40, 40]
    assert "failed: validation/lora-lr=1e+30-seed0: task 'task0'" in done.stdout
    again = sweep(recipe, out, *grid, "--set", 'stream.validation={"share": 0.25}')
    assert again.returncode == 1 and "4 runs measured on validation data, 2 finished already" in again.stdout


@pytest.mark.slow
def test_a_sweep_killed_twice_ends_the_same(tmp_path):
    """The benchmark does it: the driver and a worker killed, and the same bytes in the end."""
    command = [sys.executable, str(ROOT / "benchmarks/sweep_kills.py"), "--folder", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
