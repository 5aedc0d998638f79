"""Plans and `--dry-run` of continual recipes: every one on video without files or weights; what is told, what is refused, and
that nothing is written."""

from __future__ import annotations

import math
import pprint
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_recipe import make_recipe

import mtpeft
from mtpeft.cli.main import main
from mtpeft.continual.built import Built
from mtpeft.continual.experiment import Experiment
from mtpeft.continual.plan import runs
from mtpeft.continual.strategy import ContinualStrategy
from mtpeft.data.made_up import made_up
from mtpeft.data.video import VIDEO_DATASETS, build_video_dataset
from mtpeft.errors import ConfigError
from mtpeft.manager.flops import forward_flops
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.plan import measure
from mtpeft.runs.plan_text import tell
from mtpeft.runs.recipe import load_recipe, recipe_names

#: frames of a clip, and classes of the first task
VIDEO = {
    "k400_aim": (8, 400),
    "k400_st_adapter": (8, 400),
    "ssv2_aim": (8, 174),
    "ssv2_st_adapter": (8, 174),
    "diving48_aim": (32, 48),
    "hmdb51_vpeft": (8, 51),
    "ucf101_class_incremental": (8, 51),
}
TINY = ["backbone.name=vit_mini_patch4_32", 'backbone.options={"depth": 2, "patch_size": 8}', "stream.data.size=32"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dry_run(recipe: dict[str, Any]) -> int:
    """What `--dry-run` does with a resolved recipe."""
    return tell(runs(recipe), None)


def command(name: str, *changes: str, engine: str = "continual") -> list[str]:
    """A dry run of a recipe, changed."""
    return [engine, name, "--dry-run", *(part for change in changes for part in ("--set", change))]


@pytest.mark.parametrize("name", VIDEO)
def test_recipes_on_published_video_sets(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One step on noise, behind a head for the published classes; no folder, no file."""
    frames, classes = VIDEO[name]
    assert main(command(name, *TINY)) == 0
    out = capsys.readouterr().out
    assert f"input (2, 3, {frames}, 32, 32)" in out and f"output (2, {classes})" in out
    assert "steps: not known without the files" in out and "  made up, as " in out
    loss = re.search(r"loss ([\d.]+);", out)
    assert loss is not None and abs(float(loss[1]) - math.log(classes)) < 1.5
    assert "GFLOPs for one clip forward" in out and "all tasks, each weight once" in out
    assert "…" not in out and max(map(len, out.splitlines())) <= 80
    assert not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights"), [("k400_aim", "10,659,072"), ("k400_st_adapter", "7,110,144"), ("hmdb51_vpeft", "2,093,184")]
)
def test_weights_of_the_published_models(name: str, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the recipe's own ViT-B/16: the count of the adapters, temporal embedding and last norm."""
    assert main(command(name)) == 0
    out = capsys.readouterr().out
    assert "(2, 3, 8, 224, 224)" in out and weights in out and "85,799,424" in out


def test_every_recipe_on_video_is_tested_here() -> None:
    """Whoever adds one adds it above."""
    found = set()
    for name in (n for n in recipe_names() if n.startswith("continual/")):
        recipe = load_recipe(name)
        if recipe.get("stream", {}).get("data", {}).get("type") in set(VIDEO_DATASETS) - {"motion"}:
            found.add(name.removeprefix("continual/"))
    assert found == set(VIDEO)


def test_the_steps_are_those_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimiser step of the first experience moves its weights, all through the run's own strategy."""
    steps = []
    step = ContinualStrategy.optimizer_step

    def counted(self: ContinualStrategy) -> None:
        before = {n: p.clone() for n, p in self.model.named_parameters()}
        step(self)
        moved = [n for n, p in self.model.named_parameters() if not torch.equal(p, before[n])]
        steps.append((self.experience.current_experience, moved))

    monkeypatch.setattr(ContinualStrategy, "optimizer_step", counted)
    assert dry_run(make_recipe()) == 0
    assert [index for index, _ in steps] == [0, 0, 0]
    assert any(name.startswith("heads.") for name in steps[0][1])
    assert any("lora_B" in name for name in steps[0][1])


def test_images_have_the_size_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    """`img_size` among the backbone's options counts, not the size its weights were made at."""
    backbone = {"name": "vit_mini_patch4_32", "options": {"img_size": 16, "depth": 1}}
    assert dry_run(make_recipe(backbone=backbone)) == 0
    assert "task0: input (2, 3, 16, 16)" in capsys.readouterr().out


def test_images_then_clips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A step for each kind of task, not for each task."""
    motion = {"type": "motion", "frames": 4}
    tasks = {
        "digits": {"data": {"type": "Digits"}},
        "play": {"data": motion, "classes": ["forward", "reverse"]},
        "zoom": {"data": motion, "classes": ["zoom_in", "zoom_out"]},
    }
    stream = {"type": "task_incremental", "tasks": tasks, "train_per_class": 9, "test_per_class": 3}
    assert dry_run(make_recipe(stream=stream)) == 0
    out = capsys.readouterr().out
    assert "digits: input (2, 3, 32, 32)" in out and "GFLOPs for one image forward" in out
    assert "play: input (2, 3, 4, 32, 32)" in out and "zoom: input" not in out
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "name", ["motion_positions", "motion_stream", "motion_class_incremental", "digits_then_motion"]
)
def test_recipes_on_motion(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row, where there are rows; no clip is made."""
    assert main(command(name, "backbone.options.depth=1")) == 0
    out = capsys.readouterr().out
    for row in load_recipe(name).get("rows", [name]):
        assert f"{row}: a dry run with made-up clips" in out
    assert "one clip forward" in out and not list(folder.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epocs=3", "nothing reads the key training.epocs. Did you mean 'epochs'?"),
        ("stream.data.strid=2", "data set 'kinetics' takes no option 'strid'. Did you mean 'stride'"),
        ("stream.data.type=kinetic", "unknown data set 'kinetic'"),
        ("method.reducton=4", "method 'aim' takes no option 'reducton'"),
        ("stream.data.frames=4", "clips of 4 frames"),
        ("stream.head.pool=max", "head 'video_linear': pool is 'max', expected one of mean, attention, transformer"),
        ("training.batch_size=0", "training.batch_size is 0"),
        ("training=3", "training must be a mapping"),
    ],
)
def test_typos(change: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line and exit code 2, as in a run."""
    assert main(command("k400_aim", *TINY, change)) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("engine", "name", "message"),
    [
        ("train", "pretrain/vit_mini", "plans are of runs that train tasks"),
        ("continual", "joint/scenes_full", "it is a joint one"),
        ("continual", "joint/compare_sharing", "the key reference is for comparisons of joint recipes"),
    ],
)
def test_other_engines(engine: str, name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(name, engine=engine)) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


def test_generated_videos() -> None:
    """The published number of classes, real sampling and transforms, the same noise for the same video."""
    for name, classes in (("kinetics", 400), ("something_v2", 174), ("hmdb51", 51), ("ucf101", 101), ("diving48", 48)):
        data = build_video_dataset(name, "train", root="nowhere", generated=3)
        assert len(data) == 3 * classes and sorted(set(data.targets)) == list(range(classes))
    data = build_video_dataset("motion", "val", generated=1, frames=4, size=24, views=2, crops=3)
    assert len(data) == 12 and "reverse" in data.classes
    assert data[1]["video"].shape == (6, 3, 4, 24, 24) and data[1]["label"] == 1
    np.testing.assert_array_equal(data[1]["video"], data[1]["video"])
    assert not torch.equal(data[1]["video"], data[2]["video"])
    some = build_video_dataset("motion", "train", generated=1, groups=["zoom", "pan"])
    assert some.classes == ("pan_left", "pan_right", "zoom_in", "zoom_out")
    with pytest.raises(ConfigError, match="needs the option 'root'"):
        build_video_dataset("kinetics", "train", generated=3)


def test_a_dry_run_has_as_many_videos_as_the_stream_keeps() -> None:
    """Otherwise a recipe that keeps 7 of a class would be refused for want of generated ones."""
    stream = {
        "type": "class_incremental",
        "num_tasks": 6,
        "train_per_class": 7,
        "data": {"type": "motion", "frames": 2},
    }
    experiment = Built(make_recipe(stream=made_up(stream, 2)))
    assert len(experiment.stream[0].train) == 2 * 7
    data = {"type": "motion", "frames": 2, "train_per_class": 9, "test_per_class": 3}
    stream = Built(make_recipe(stream=made_up({**stream, "train_per_class": None, "data": data}, 2))).stream
    assert (len(stream[0].train), len(stream[0].test)) == (2 * 9, 2 * 3)


def test_tasks_of_listed_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """101 is a prime: UCF101 is split into 51 classes and five times 10."""
    recipe = load_recipe("ucf101_class_incremental", TINY)
    backbone = {**recipe["backbone"], "pretrained": False}
    stream = Built({**recipe, "backbone": backbone, "stream": made_up(recipe["stream"], 2)}).stream
    assert [len(task.classes) for task in stream] == [51, 10, 10, 10, 10, 10]
    assert sorted(label for task in stream for label in task.classes) == list(range(101))
    assert sorted(set(stream[1].train.targets)) == list(range(51, 61))
    assert main(command("ucf101_class_incremental", *TINY, "stream.classes_per_task=[50, 50]")) == 2
    assert "101 classes cannot be split with classes_per_task=[50, 50]: that is 100" in capsys.readouterr().err


def test_flops_of_a_clip_are_those_of_its_frames() -> None:
    manager = mtpeft.attach("vit_mini_patch4_32", "lora", pretrained=False)
    manager.add_task("one", num_classes=10)
    head = 2 * 128 * 10  # once for a clip: its frames are averaged before
    image = forward_flops(manager, torch.zeros(1, 3, 32, 32), "one")
    clip = forward_flops(manager, torch.zeros(1, 3, 5, 32, 32), "one")
    assert clip - head == 5 * (image - head) and manager.training
    assert sum(p.requires_grad for p in manager.parameters()) == 2 * 2 * 6 + 2


def test_a_recipe_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`mtpeft train` takes it by path and finds the engine."""
    file = folder / "own.py"
    file.write_text("\n".join(f"{key} = {pprint.pformat(value)}" for key, value in make_recipe().items()))
    assert main(command(str(file), engine="train")) == 0
    assert "small: a dry run" in capsys.readouterr().out
    assert [f.name for f in folder.iterdir()] == ["own.py"]


def test_a_plan_is_what_the_run_does(folder: Path) -> None:
    """Steps, trained weights and bytes as the run has them; the folder is about as large as told."""
    recipe = make_recipe(backbone={"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 1}})
    [plan] = [measure(run, 0.01) for run in runs(recipe)]
    assert not list(folder.iterdir())
    experiment = Experiment(recipe)
    results = experiment.run(RunFolder(folder / "run", recipe))
    assert results is not None
    assert plan["steps"] == experiment.curve.step == 20
    assert plan["memory"]["backbone"] == results["memory"]["backbone"]
    for task, facts in results["memory"]["per_task"].items():
        assert {"trained": plan["tasks"][task]["trained"], **plan["tasks"][task]["bytes"]} == facts
    [part] = plan["parts"]
    assert part["tasks"] == [f"task{i}" for i in range(5)] and part["epoch_steps"] == 10
    assert part["seconds"]["samples"] < 16 and plan["seconds"]["run"] > 20 * part["seconds"]["compute"]
    kept = sum(file.stat().st_size for file in (folder / "run" / "checkpoints").glob("*.safetensors"))
    model = sum(file.stat().st_size for file in (folder / "run" / "model").iterdir())
    assert 0 < model - plan["disk"]["model"] < 10_000  # names, and what tasks are
    assert plan["disk"]["model"] < kept < 2 * plan["disk"]["checkpoint"]


def test_the_estimated_peak_is_that_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same plan where steps of the whole batch are watched instead of small ones."""
    recipe = make_recipe(method={"name": "full"}, training={**make_recipe()["training"], "accumulate": 2})
    [run] = runs(recipe)
    told = measure(run, None)["memory"]
    [run] = runs(recipe)
    monkeypatch.setattr(run.parts[0], "sizes", (16, 17))
    whole = measure(run, None)["memory"]
    assert told["peak"] == pytest.approx(whole["peak"], rel=0.05)
    assert told["activations"] == pytest.approx(whole["activations"], rel=0.05)


def test_a_class_incremental_plan_has_all_heads() -> None:
    stream = {**make_recipe()["stream"], "type": "class_incremental"}
    [plan] = [measure(run, None) for run in runs(make_recipe(stream=stream))]
    assert list(plan["tasks"]) == [f"task{i}" for i in range(5)]
    assert plan["parts"][0]["outputs"] == {"task0": [2, 2]}


def test_images_that_are_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Made up where the data set can be, else refused in one line that names the folder."""
    root = f"stream.data.root={folder}"
    assert main(command("fashion_lora", "backbone.options={'depth': 1}", root)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "made-up data" in out and f"not found in {folder}" in out and "130 steps" in out
    data = {"type": "torchvision.RenderedSST2", "download": True, "root": str(folder)}
    assert main(command("fashion_lora", f"stream.data={data}")) == 2
    err = capsys.readouterr().err
    assert str(folder) in err and len(err.splitlines()) == 1
    assert not list(folder.iterdir())
    assert main(["continual", "fashion_lora", "--set", "stream.data.generated=3"]) == 2
    assert "makes up data, which is for plans alone" in capsys.readouterr().err
