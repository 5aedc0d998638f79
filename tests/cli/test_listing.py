"""`mtpeft methods` and `mtpeft recipes`: whole at 80 columns, complete, and the same for scripts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import mtpeft
import mtpeft.cli.methods as listing
from mtpeft.backbones.anatomy import GROUPS, Anatomy
from mtpeft.backbones.site import PLACES
from mtpeft.cli.catalogue import METHOD_KEYS
from mtpeft.cli.main import main
from mtpeft.cli.method_costs import measured
from mtpeft.cli.methods_page import claims, costs, facts, learns
from mtpeft.methods import METHODS
from mtpeft.methods.spec import TAXONOMY
from mtpeft.options import expected, options_of
from mtpeft.runs.recipe import recipe_names
from mtpeft.testing.backbones import tiny_backbone


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    """A ViT-B/16 without values, made once."""
    return listing.vit_base()


@pytest.fixture(autouse=True)
def made_once(anatomy: Anatomy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands count on the one ViT-B/16, in a pipe of the usual width."""
    monkeypatch.setattr(listing, "vit_base", lambda: anatomy)
    monkeypatch.delenv("COLUMNS", raising=False)


def shown(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What a command prints, none of it cut or too long."""
    assert main(list(command)) == 0
    text = capsys.readouterr().out
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    return text


def test_names_are_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "methods", "--names").split() == list(METHODS)


def test_every_method_is_one_line_under_its_taxonomy(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "methods").splitlines()
    used = [line for line in lines if line in TAXONOMY]
    assert used == [place for place in TAXONOMY if any(METHODS.get(name).taxonomy == place for name in METHODS)]
    for name in METHODS:
        spec = METHODS.get(name)
        [at] = [n for n, line in enumerate(lines) if line.startswith(f"  {name} ")]
        assert next(line for line in reversed(lines[:at]) if line in TAXONOMY) == spec.taxonomy
        assert lines[at].endswith(spec.paper.partition(" (")[0])
        assert ("M" in lines[at].split()[2]) == spec.folds
    text = "\n".join(lines)
    for name, weights in (
        ("lora", "294,912"),
        ("adaptformer", "1,189,632"),
        ("linear_probe", "0"),
        ("full", "85,798,656"),
    ):
        assert re.search(rf"^  {name} +{weights}  ", text, re.MULTILINE)


@pytest.mark.parametrize("name", METHODS)
def test_one_method_with_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, "methods", name).split())
    spec = METHODS.get(name)
    assert text.startswith(f"{name} ({spec.taxonomy})") and spec.paper in text
    for option, declared in options_of(spec.config).items():
        default = list(declared.default) if isinstance(declared.default, tuple) else declared.default
        assert f" {option} = {default!r} {expected(declared.annotation)}" in text
    for kind in spec.build_config({}).sites:
        assert f"{kind} ({(PLACES | GROUPS)[kind]})" in text
    assert f"sharings {spec.sharings[0]} (default)" in text


def test_an_unknown_method_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ([], ["--json"]):
        assert main(["methods", "lorra", *form]) == 2
        assert capsys.readouterr().err == (
            "mtpeft: unknown method 'lorra'. Did you mean 'lora' or 'mtlora' or 'lorand'?\n"
        )


def test_methods_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found] == list(METHODS)
    documented = re.sub(r"\([^)]*\)", "", METHOD_KEYS.removeprefix("keys of --json: "))
    for row in found:
        assert list(row) == [key.strip() for key in documented.split(",")]
        assert (row["weights"] is None) == (row["reason"] is not None)
    by_name = {row["name"]: row for row in found}
    assert by_name["lora"]["weights"] == 294_912 and "hyperformer" in by_name["lora"]["sharings"]
    assert {name for name, row in by_name.items() if row["clips"]} == {"aim", "frame2freq", "st_adapter", "zeroi2v"}
    assert main(["methods", "lora", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == by_name["lora"]


def test_counts_without_values_are_those_of_real_weights() -> None:
    real = Anatomy(tiny_backbone("vit"))
    for name in METHODS:
        spec, said = METHODS.get(name), listing.describe(name, real)
        if said["weights"] is None:
            assert "cannot be attached" in said["reason"]
        elif spec.owned is None and not spec.siteless:
            manager = mtpeft.attach(tiny_backbone("vit"), name, sharing=spec.sharings[-1])
            manager.add_task("one", num_classes=2)
            assert said["weights"] == manager.num_trainable("one", heads=False), name


def test_recipes_by_folder(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "recipes").splitlines()
    for name in recipe_names():
        folder, _, short = name.rpartition("/")
        at = next(n for n, line in enumerate(lines) if line.startswith(f"  {short} ") and n > lines.index(folder))
        assert next(line for line in reversed(lines[:at]) if line and not line.startswith(" ")) == folder
    assert main(["recipes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [recipe["name"] for recipe in found] == recipe_names()
    text = " ".join(" ".join(lines).split())
    assert all(set(recipe) == {"name", "folder", "summary"} and recipe["summary"] in text for recipe in found)


def test_the_page_says_what_is_so(anatomy: Anatomy) -> None:
    text = (Path(__file__).parents[2] / "METHODS.md").read_text(encoding="utf-8")
    assert facts(anatomy) in text, "METHODS.md is of other methods: mtpeft methods --page > METHODS.md"
    assert costs() in text
    assert learns() in text, "python benchmarks/learned.py wrote others"
    assert set(claims(text)) == set(METHODS)
    assert all(measured(name) is not None for name in METHODS), "python benchmarks/methods.py NAME measures one more"
