"""Recipes with a search: three stages, killed in each of them; what each sees of the data; mistakes told at the start."""

from __future__ import annotations

import json
import pprint
from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import Killed

import mtpeft.continual.search as stages
from mtpeft.cli.main import main
from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError
from mtpeft.runs.folder import read_recipe
from mtpeft.runs.update import Update
from mtpeft.search import Elastic

SEARCH: dict[str, Any] = {
    "sizes": [1, 2],
    "depths": [1, 2],
    "limit": 1_200,
    "population": 5,
    "parents": 2,
    "generations": 2,
    "mutants": 2,
    "crossovers": 2,
    "retrain": {"training": {"epochs": 1}},
}
STREAM = {
    **make_recipe()["stream"],
    "num_tasks": 1,
    "train_per_class": 8,
    "test_per_class": 4,
    "validation": {"share": 0.25},
}


def noah(**changes: Any) -> dict[str, Any]:
    recipe = make_recipe(method={"name": "noah"}, stream=STREAM, search=SEARCH)
    del recipe["sharing"]
    backbone = {**recipe["backbone"], "options": {**recipe["backbone"]["options"], "embed_dim": 32, "num_heads": 2}}
    return {**recipe, "backbone": backbone, **changes}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(recipe: dict[str, Any], out: str, *more: str) -> list[str]:
    """Write a recipe; the command that runs it."""
    file = Path("noah_small.py")
    file.write_text("\n".join(f"{key} = {pprint.pformat(value)}" for key, value in recipe.items() if key != "name"))
    return ["continual", str(file), "--out", out, *more]


FILES = ("supernet/results.json", "search/search.json", "subnet/results.json")


def test_killed_in_every_stage_it_ends_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = noah()
    assert main(command(recipe, "whole")) == 0
    told = capsys.readouterr().out
    assert "generation 2: 5 subnets" in told and "found: prompts" in told and "subnet/report.html" in told

    trained, measured = Update.step, stages._Measure.__call__
    count, kills = {"step": 0, "measure": 0}, dict[str, int]()

    def step(self: Update) -> None:
        trained(self)
        count["step"] += 1
        if count["step"] == kills.get("step"):
            raise Killed

    def measure(self: Any, subnet: Any) -> float:
        count["measure"] += 1
        if count["measure"] == kills.get("measure"):
            raise Killed
        return measured(self, subnet)

    monkeypatch.setattr(Update, "step", step)
    monkeypatch.setattr(stages._Measure, "__call__", measure)
    steps = json.loads(Path("whole/supernet/log.jsonl").read_text().splitlines()[-2])  # the last checkpoint
    assert steps["step"] == 8  # 60 of 80 images, 16 at a time, twice
    killed = command(recipe, "killed")
    reached = []
    for where, number in (
        ("step", 3),
        ("measure", 2),
        ("measure", 7),
        ("step", 11),
    ):  # 3 + 6 steps of the supernet before
        kills.clear()
        kills[where] = number
        with pytest.raises(Killed):
            main(killed)
        reached.append([name for name in FILES if Path("killed", name).is_file()])
    assert reached == [[], [FILES[0]], [FILES[0]], [*FILES[:2]]]
    kills.clear()
    assert main([*killed, "--resume"]) == 0
    for name in FILES:
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes(), name
    assert count["measure"] == 10 + 2  # what was measured before a kill is not measured again
    assert main(killed) == 0 and "complete already" in capsys.readouterr().out


def test_what_the_stages_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(noah(), "run")) == 0
    found = json.loads(Path("run/search/search.json").read_text())
    supernet, subnet = (json.loads(Path("run", name, "results.json").read_text()) for name in ("supernet", "subnet"))
    sizes = {part: found["subnet"][part] for part in ("prompts", "ranks", "widths")}
    recipe = read_recipe(Path("run/subnet"))
    assert {part: recipe["method"][part] for part in sizes} == sizes
    assert recipe["training"]["epochs"] == 1 and "search" not in recipe and "validation" not in recipe["stream"]
    assert found["weights"] <= SEARCH["limit"]
    manager = Experiment(recipe).manager
    assert manager.num_trainable(manager.tasks[0], heads=False) == found["weights"]
    (before,), (after,) = supernet["tasks"], subnet["tasks"]
    assert before["test_samples"] == before["validation_samples"] == 20 and before["train_samples"] == 60
    assert after["test_samples"] == 40 and after["train_samples"] == 80
    assert main(["evaluate", "run/subnet"]) == 0
    assert "results.json" not in capsys.readouterr().out
    assert main(command(noah(), "run", "--fresh")) == 0
    assert json.loads(Path("run/search/search.json").read_text()) == found


def test_the_fitness_is_the_accuracy_of_the_leading_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(command(noah(), "run")) == 0
    recipe = stages.SearchRecipe({**noah(), "name": "noah_small"})
    experiment = Experiment(recipe.supernet())
    experiment.restore_final(stages.RunFolder("run/supernet", recipe.supernet()))
    content = json.loads(Path("run/search/scores.json").read_text())
    elastic, task = Elastic(experiment.manager), experiment.stream[0]
    for key, value in content["scores"]:
        subnet = dict(zip(elastic.parts, map(tuple, key), strict=True))
        elastic.use(subnet)
        with torch.no_grad():
            x, y = task.validation.plain().batch(list(range(20)))  # type: ignore[union-attr]
            right = experiment.manager.eval()(x, task.name).argmax(1) == y
        assert value == pytest.approx(100 * right.float().mean().item())


def test_draws_of_the_supernet_are_a_function_of_seed_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    use = Elastic.use
    monkeypatch.setattr(Elastic, "use", lambda self, subnet: (drawn.append(subnet), use(self, subnet))[1])
    recipe = stages.SearchRecipe(noah()).supernet()
    experiment = Experiment(recipe)
    experiment.strategy.train_experience(0)
    steps = [subnet for subnet in drawn if subnet is not None]
    assert len(steps) == 8 and len({repr(subnet) for subnet in steps}) > 4
    assert all(module.active is None for module in experiment.manager.modules() if hasattr(module, "active"))
    drawn.clear()
    Experiment(recipe).strategy.train_experience(0, epoch=1)
    again = [subnet for subnet in drawn if subnet is not None]
    assert again == steps[:4]  # the step is the clock's, which only a run that goes on restores


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"method": "lora"}, "the sizes of method 'lora' cannot be searched"),
    ({"method": ["noah", "lora"]}, "a search is of one method"),
    ({"method": {"name": "noah", "ranks": 3}}, "the search chooses ranks; leave method.ranks out"),
    ({"stream": {k: v for k, v in STREAM.items() if k != "validation"}}, "a search needs validation data"),
    ({"stream": {**STREAM, "validation": {"share": 0.25, "instead_of_test": True}}}, "leave out instead_of_test"),
    ({"search": {**SEARCH, "limit": 10}}, "search.limit is 10 weights, no subnet drawn has so few"),
    ({"search": {**SEARCH, "depths": [3]}}, r"depths of the search is \[3\], expected some of 1 to 2"),
    ({"search": {**SEARCH, "sizes": []}}, r"search.sizes is \[\], expected"),
    ({"search": {**SEARCH, "retrain": {"trainin": {"epochs": 1}}}}, "nothing reads the key trainin"),
    ({"search": {**SEARCH, "population": 0}}, "search.population is 0, expected"),
    ({"search": {**SEARCH, "popolation": 5}}, "nothing reads the key search.popolation"),
    ({"search": {}}, "key search.sizes is missing"),
    ({"search": 5}, "search must be a mapping"),
    ({"seed": "x"}, "seed is 'x', expected"),
    ({"plugins": 5}, "plugins is 5, expected"),
    ({"sharing": "hyperformer"}, "sharing"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_mistakes_are_told_before_anything_is_trained(
    changes: dict[str, Any], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(noah(**changes), "run")) == 2
    error = capsys.readouterr().err
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)
    assert error.count("\n") == 1 and not (folder / "run").exists()


def test_a_search_with_other_settings_has_a_folder_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(noah(), "run")) == 0
    capsys.readouterr()
    assert main(command(noah(search={**SEARCH, "limit": 1_100}), "run")) == 2
    assert "the search of another supernet, or with other settings" in capsys.readouterr().err
    Path("run/search/search.json").write_text("{}")
    assert main(command(noah(), "run")) == 2
    assert "search/search.json is damaged" in capsys.readouterr().err


def test_a_plan_tells_both_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(noah(), "run")[:2], "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "noah_small-supernet" in out and "noah_small-subnet" in out
    assert [path.name for path in folder.iterdir()] == ["noah_small.py"]


def test_a_supernet_is_not_compiled() -> None:
    recipe = stages.SearchRecipe(noah(training={**noah()["training"], "compile": True})).supernet()
    with pytest.raises(ConfigError, match=r"leave out training\.compile"):
        Experiment(recipe).strategy.train_experience(0)


def test_a_search_is_no_row_of_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    file = command(noah(), "run")[1]
    Path("both.py").write_text(f"rows = [{file!r}]\n")
    assert main(["continual", "both.py"]) == 2
    assert "a search is three runs (mtpeft continual)" in capsys.readouterr().err
