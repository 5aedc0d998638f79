"""Recipes on published image sets: each is built and trained for one step on made-up images, without files or weights."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

import pytest

from mtpeft.cli.main import main
from mtpeft.continual.training import Training
from mtpeft.data.layouts import LAYOUTS
from mtpeft.manager.attach import resolve_methods
from mtpeft.manager.counting import weights_on
from mtpeft.options import Section
from mtpeft.runs.recipe import find_recipe, load_recipe, recipe_names
from mtpeft.runs.sweep.grid import Axis
from mtpeft.runs.sweep.plan import plan_sweep
from mtpeft.testing.backbones import vit_base

#: classes of the first task
CLASSES = {
    "vtab": 100,
    "vtab_task": 100,
    "vtab_noah": 100,
    "fgvc": 200,
    "fgvc_ssf": 200,
    "cifar100_inc10": 10,
    "imagenet_r_inc20": 20,
    "imagenet_a_inc20": 20,
    "cub_inc20": 20,
    "omnibenchmark_inc30": 30,
    "vtab50_inc10": 10,
    "stream51_inc3": 3,
    "domainnet_domains": 345,
    "core50_sessions": 50,
}
#: recipes of one method on the tasks of another: "vtab_ssf" is of "vtab"
CLASSES |= {
    name: CLASSES[name.split("_")[0]]
    for name in (path.removeprefix("continual/") for path in recipe_names())
    if name.startswith(("vtab_", "fgvc_")) and name not in CLASSES
}
#: tried in every run of the tests: one of each base, and those with domains
OFTEN = ("vtab", "fgvc_ssf", "cifar100_inc10", "core50_sessions")


def tiny(name: str) -> list[str]:
    """The recipe on a backbone of two blocks."""
    recipe = load_recipe(name)
    options = {"depth": 2, "patch_size": 8, **recipe["backbone"].get("options", {})}
    changes = ["backbone.name=vit_mini_patch4_32", f"backbone.options={options}"]
    return changes + (["method.blocks=[0, 1]"] if "blocks" in recipe["method"] else [])


def command(name: str, *changes: str, dry: bool = True) -> list[str]:
    sets = [part for change in (*tiny(name), *changes) for part in ("--set", change)]
    return ["continual", name, *(["--dry-run"] if dry else []), *sets]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in CLASSES]
)
def test_a_step_on_made_up_images(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(name)) == 0
    out = capsys.readouterr().out
    assert re.search(r"input \(\d+, 3, 32, 32\)", out) and "made-up data" in out
    assert re.search(rf"output \(\d+, {CLASSES[name]}\)", out)
    loss = re.search(r"loss ([\d.]+);", out)
    assert loss is not None and float(loss[1]) < math.log(CLASSES[name]) + 2
    if load_recipe(name)["training"]["optimizer"]["type"] != "SGD":  # whose rates learn the batch by heart
        assert float(loss[1]) > math.log(CLASSES[name]) - 2
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in OFTEN])
def test_its_method_and_training_are_what_the_backbone_takes(name: str) -> None:
    top = Section(load_recipe(name), name)
    Training.read(top.section("training"))
    for spec, config, _ in resolve_methods(top.take("method"), top.take("sharing", None)):
        weights_on(spec, config, vit_base())  # raises where the backbone cannot have it


def sweep_of(name: str) -> dict[str, list[str]] | None:
    """The options of the sweep that a recipe's docstring gives, {option: its values}; None without one."""
    text = find_recipe(f"continual/{name}").read_text(encoding="utf-8").replace("\\\\\n", " ")
    found = re.search(r"^ +mtpeft sweep (.*)$", text, re.MULTILINE)
    if found is None:
        return None
    recipe, *parts = shlex.split(found[1])
    assert recipe == name and len(parts) % 2 == 0
    options: dict[str, list[str]] = {}
    for option, value in zip(parts[::2], parts[1::2], strict=True):
        options.setdefault(option, []).append(value)
    return options


SWEPT = {name: options for name in CLASSES if (options := sweep_of(name)) is not None}


@pytest.mark.parametrize("name", SWEPT)
def test_the_sweep_it_gives_chooses_on_data_held_out_for_that(name: str) -> None:
    """Its settings are those of the recipe but for the grid, and nothing is measured on the published test part."""
    options = SWEPT[name]
    assert set(options) == {"--grid", "--set"}
    recipe = load_recipe(name, options["--set"])
    assert recipe["stream"]["data"]["select"] is True
    assert name.startswith("fgvc_") or len(recipe["stream"]["tasks"]) == 1
    plan = plan_sweep(recipe, [Axis.parse(text) for text in options["--grid"]])
    assert len(plan.settings) > 2
    for trial in plan.trials("test"):
        top = Section(trial.recipe, name)
        Training.read(top.section("training"))
        resolve_methods(top.take("method"), top.take("sharing", None))


def test_one_task_of_many_is_planned_as_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("vtab_convpass", *SWEPT["vtab_convpass"]["--set"])) == 0
    assert re.search(r"output \(\d+, 10\)", capsys.readouterr().out)  # the digits of svhn


def test_every_recipe_on_a_published_layout_is_tested_here() -> None:
    kinds = {*LAYOUTS, "torchvision.CIFAR100"}
    found = {
        name for name in recipe_names() if load_recipe(name).get("stream", {}).get("data", {}).get("type") in kinds
    }
    assert {name.removeprefix("continual/") for name in found} == set(CLASSES)


def test_classes_come_in_the_published_order() -> None:
    stream = load_recipe("cifar100_inc10")["stream"]
    assert (stream["order_seed"], stream["order_rng"], stream["classes_per_task"]) == (1993, "numpy", 10)


def test_a_made_up_run_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("vtab_task", "stream.data.generated=2", dry=False)) == 2
    assert "data.generated makes up data" in capsys.readouterr().err
