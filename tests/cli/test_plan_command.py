"""`mtpeft plan`: every recipe that comes with mtpeft, for people and for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtpeft.cli.main import main
from mtpeft.runs.recipe import load_recipe, recipe_names

#: planned at every run of the tests, the others at night
QUICK = ("continual/fashion_class_lae",)
PLANNED = [name for name in recipe_names() if not name.startswith("pretrain/")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def tiny(recipe: dict[str, Any]) -> list[str]:
    """The recipe on a backbone of two blocks that needs no download."""
    options = {"depth": 2, "patch_size": 8, **recipe["backbone"].get("options", {})}
    changes = ["backbone.name=vit_mini_patch4_32", f"backbone.options={options}"]
    changes += ["stream.data.size=32"] if "size" in recipe["stream"].get("data", {}) else []
    return changes + (["method.blocks=[0, 1]"] if "blocks" in recipe["method"] else [])


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PLANNED])
def test_every_recipe_is_planned(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With data that are there or made up, else refused by the folder's name; backbones to be downloaded are made small here.

    Nothing is left behind.
    """
    recipe = load_recipe(name)
    large = "rows" not in recipe and "mini" not in recipe["backbone"]["name"]
    changes = [part for change in (tiny(recipe) if large else []) for part in ("--set", change)]
    code = main(["plan", name, *changes, "--seconds", "0.01", "--json"])
    out, err = capsys.readouterr()
    filled = {folder / "home/.cache", folder / "home/.avalanche"}  # by libraries when they are first imported
    assert not [file for file in folder.rglob("*") if file.is_file() and filled.isdisjoint(file.parents)]
    if code == 2 and "root" in (data := recipe["stream"]["data"]):
        assert data["root"] in err and len(err.splitlines()) == 1
        return
    assert code == 0, err
    found = json.loads(out)
    assert len(found["rows"]) >= len(recipe.get("rows", [0])) and found["disk"] > 0
    for plan in found["rows"]:
        assert plan["memory"]["peak"] > plan["memory"]["weights"] > 0
        assert plan["parts"] and all(part["flops"] > 0 and part["losses"] for part in plan["parts"])
        assert all(part["seconds"]["step"] > 0 for part in plan["parts"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain/vit_mini"], "recipe pretrain/vit_mini makes the weights of a backbone: plans are of runs"),
        (["fashion_lea"], "Did you mean 'fashion_lae'"),
        (["fashion_lae", "--seconds", "0"], "--seconds is 0, expected more than 0"),
        (["fashion_lae", "--set", "training.epocs=3"], "nothing reads the key training.epocs"),
    ],
)
def test_mistakes(arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert not list(folder.iterdir())


def test_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["plan", "joint/scenes_vmt"]) == 2
    assert "run the command without torchrun" in capsys.readouterr().err


def test_a_dry_run_has_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for engine, name in (("train", "joint/scenes_vmt"), ("continual", "fashion_lae")):
        assert main([engine, name, "--dry-run", "--fresh"]) == 2
        assert "--dry-run has no run folder" in capsys.readouterr().err
