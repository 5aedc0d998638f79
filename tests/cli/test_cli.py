"""The command line: quick help, exit codes, one-line errors, earlier results untouched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtpeft.cli.main import main
from mtpeft.runs.recipe import load_recipe, recipe_names

SMALL = [
    "backbone.pretrained=False", 'backbone.options={"depth": 2, "patch_size": 8}', 'stream.data={"type": "Digits"}',
    "stream.train_per_class=8", "stream.test_per_class=4", "training.epochs=1", "training.batch_size=8", "baselines=False",
]  # fmt: skip


def small(name: str, *more: str) -> list[str]:
    """A continual command of a recipe made small."""
    command = ["continual", name]
    for text in (*SMALL, *more):
        command += ["--set", text]
    return command


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, mtpeft.cli.main\n"
        "try: mtpeft.cli.main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'timm', 'avalanche', 'mmengine', 'plotly'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("methods", "recipes", "train", "continual", "evaluate", "report", "doctor"):
        assert command in done.stdout


def test_a_run_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run, run again (complete already), evaluate, report of two runs."""
    command = [*small("fashion_lora"), "--out", str(tmp_path / "lora")]
    assert main(command) == 0
    first = (tmp_path / "lora/results.json").read_bytes()
    out = capsys.readouterr().out
    assert "report:" in out and "task4" in out
    for name in (
        "config.py",
        "log.jsonl",
        "results.json",
        "report.html",
        "checkpoints/state.json",
        "model/manifest.json",
    ):
        assert (tmp_path / "lora" / name).is_file()
    assert main(command) == 0
    assert "complete already" in capsys.readouterr().out
    assert (tmp_path / "lora/results.json").read_bytes() == first
    assert main(["evaluate", str(tmp_path / "lora")]) == 0
    assert "results.json" not in capsys.readouterr().out
    assert main([*small("fashion_adapters", "seed=1"), "--out", str(tmp_path / "adapters")]) == 0
    page = tmp_path / "both.html"
    assert main(["report", str(tmp_path / "lora"), str(tmp_path / "adapters"), "--out", str(page)]) == 0
    assert "fashion_adapters" in page.read_text()


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith("continual/fashion")])
def test_every_recipe_of_images_runs(name: str, tmp_path: Path) -> None:
    command = [*small(name, "stream.train_per_class=4"), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["name"] == name.rsplit("/", 1)[-1]
    assert results["scenario"] == ("class_incremental" if "class" in name else "task_incremental")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings that make a recipe of rendered scenes small; the scenes are rendered once."""
    cache = tmp_path_factory.mktemp("scenes")
    return ["train_size=4", "val_size=2", f"cache={str(cache)!r}", "workers=1"]


def settings(*pairs: str) -> list[str]:
    """`--set` in front of each."""
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith("continual/scenes")])
def test_every_sequence_of_scenes_runs(name: str, scenes: list[str], tmp_path: Path) -> None:
    small_run = settings("training.epochs=1", "training.batch_size=4", *(f"stream.data.{pair}" for pair in scenes))
    assert main(["continual", name, *small_run, "--out", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["scenario"] == "dense_incremental"
    assert {task["unit"] for task in results["tasks"]} >= {"%", "m", "deg"}


#: recipes at the published rank of 64, which take long to build
LONG = ("ditask_paper", "faar_paper", "free_sinewich_paper", "tadformer_paper")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n.endswith(LONG) else ())
        for n in recipe_names()
        if n.startswith("joint/scenes")
    ],
)
def test_every_joint_recipe_runs(name: str, scenes: list[str], tmp_path: Path) -> None:
    small_run = settings("training.steps=1", "training.batch_size=4", *(f"data.{pair}" for pair in scenes))
    assert main(["train", name, *small_run, "--out", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["kind"] == "joint" and len(results["main"]) == 7


BAD = [
    (["continual", "fashion_lor"], "unknown recipe 'fashion_lor'. Did you mean 'fashion_lora'"),
    (["continual", "nothing/here.py"], "unknown recipe 'nothing/here.py'"),
    (["continual", "fashion_lora", "--set", "trainin.epochs=1"], "the recipe has no trainin. Did you mean 'training'"),
    (["continual", "fashion_lora", "--set", "training.epoch=1"], "nothing reads the key training.epoch."),
    (["continual", "fashion_lora", "--set", "epochs"], "write it as key=value"),
    (["continual", "fashion_lora", "--set", "method.name=lorra"], "unknown method 'lorra'"),
    (["continual", "fashion_lora", "--resume", "--out", "OUT/none"], "has no checkpoint to resume from"),
    (["evaluate", "OUT/none"], "is no run folder: it has no config.py"),
    (["report", "OUT/none"], "none"),
    (["train", "fashion_lora", "--set", "engine=quantum"], "nothing reads the key engine"),
    (["train", "vit_mini", "--set", "train.epoch=1"], "epoch"),
]


@pytest.mark.parametrize(("command", "text"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_mistakes_are_one_line_and_exit_2(
    command: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTPEFT_RUNS", str(tmp_path / "runs"))
    assert main([part.replace("OUT", str(tmp_path)) for part in command]) == 2
    error = capsys.readouterr().err.strip()
    assert text in error and error.startswith("mtpeft: ") and "\n" not in error


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A file system of 256 KiB of allowed file size: the run ends with exit code 2 and nothing half written."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "from mtpeft.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, *small("fashion_full"), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "mtpeft: cannot write" in done.stderr
    assert not (tmp_path / "run/results.json").exists()
    assert not list((tmp_path / "run").rglob(".*"))


def test_overrides_are_literals() -> None:
    recipe = load_recipe("fashion_lora", ["training.epochs=7", "method.rank=2", "sharing=per_task"])
    assert recipe["training"]["epochs"] == 7 and recipe["method"]["rank"] == 2 and recipe["sharing"] == "per_task"
