"""The grid of a sweep, and the runs it makes of a recipe."""

from __future__ import annotations

import pytest

from mtpeft.errors import ConfigError
from mtpeft.runs.sweep.grid import Axis, folder_name, short, shown
from mtpeft.runs.sweep.plan import plan_sweep

RECIPE = {
    "name": "small",
    "seed": 3,
    "method": {"name": "lora", "rank": 4, "dropout": 0.1},
    "stream": {"type": "class_incremental", "data": {"type": "Digits"}, "num_tasks": 5},
    "training": {"epochs": 1, "optimizer": {"type": "AdamW", "lr": 0.001}},
}


def test_values_are_literals_or_texts():
    assert Axis.parse("training.optimizer.lr=1e-3, 3e-3").values == (0.001, 0.003)
    assert Axis.parse("x=True,None,abc,'a,b'").values == (True, None, "abc", "a,b")
    assert Axis.parse("stream.classes=[1,2],[3,4]").values == ([1, 2], [3, 4])


def test_methods_are_mappings():
    axis = Axis.parse("method=lora,{'name': 'ssf'},['lora','bitfit']")
    assert axis.values == ({"name": "lora"}, {"name": "ssf"}, ["lora", "bitfit"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method", "write it as key=value,value"),
        ("=1,2", "write it as key=value,value"),
        ("training.optimizer.lr=", "a value is empty"),
        ("method=lora,,ssf", "a value is empty"),
        ("lr=1e-3,0.001", "0.001 is given twice"),
    ],
)
def test_wrong_axes(text, message):
    with pytest.raises(ConfigError, match=message):
        Axis.parse(text)


def test_settings_are_named_by_what_differs():
    values = {"method": {"name": "lora", "rank": 8}, "training.optimizer.lr": 0.001, "stream.validation.seed": 1}
    assert folder_name(values) == "lora_rank=8-lr=0.001-seed=1"
    assert short("a.seed", {"a.seed": 0, "b.seed": 1}) == "a.seed"
    assert shown(["lora", {"name": "bitfit"}]) == "lora + bitfit"


def axes(*grid: str) -> list[Axis]:
    return [Axis.parse(text) for text in grid]


def test_a_plan_has_every_combination():
    plan = plan_sweep(RECIPE, axes("method=lora,ssf", "training.optimizer.lr=1e-3,3e-3"), seeds=2, orders=2)
    assert [setting.name for setting in plan.settings] == [
        "lora-lr=0.001",
        "lora-lr=0.003",
        "ssf-lr=0.001",
        "ssf-lr=0.003",
    ]
    assert len(plan.trials("test")) == 16 and not plan.trials("validation")
    trial = plan.trials("test")[-1]
    assert trial.folder == "ssf-lr=0.003-order1-seed4"
    assert trial.recipe["method"] == {"name": "ssf"}, "the options of the recipe's own method are gone"
    assert trial.recipe["stream"]["order_seed"] == 1 and trial.recipe["seed"] == 4
    assert trial.recipe["training"]["optimizer"] == {"type": "AdamW", "lr": 0.003}
    assert RECIPE["stream"] == {"type": "class_incremental", "data": {"type": "Digits"}, "num_tasks": 5}


def test_options_of_a_method_of_the_grid():
    plan = plan_sweep(RECIPE, axes("method.rank=2,8", "method=lora"))
    assert [trial.recipe["method"] for trial in plan.trials("test")] == [
        {"name": "lora", "rank": 2}, {"name": "lora", "rank": 8}]  # fmt: skip
    assert [s.method for s in plan.settings] == ["lora", "lora"]


def test_without_a_grid_there_is_one_setting():
    plan = plan_sweep(RECIPE, [], seeds=3)
    assert [trial.folder for trial in plan.trials("test")] == ["small-seed3", "small-seed4", "small-seed5"]


def test_settings_are_chosen_in_runs_that_do_not_measure_the_test_part():
    plan = plan_sweep(RECIPE, axes("method=lora,ssf"), select=True)
    assert plan.select == {"share": 0.1, "seed": 0}
    held, test = plan.trials("validation")[0], plan.trials("test")[0]
    assert held.folder == f"validation/{test.folder}"
    assert held.recipe["stream"]["validation"] == {"share": 0.1, "seed": 0, "instead_of_test": True}
    assert "validation" not in test.recipe["stream"]
    own = {**RECIPE, "stream": {**RECIPE["stream"], "validation": {"share": 0.2}}}
    plan = plan_sweep(own, axes("method=lora,ssf"), select=True)
    assert plan.select == {"share": 0.2}
    joint = {"name": "j", "tasks": {"a": {}}, "method": "lora"}
    held = plan_sweep(joint, [], select=True).trials("validation")[0]
    assert held.recipe["validation"]["instead_of_test"]


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"rows": ["a"]}, {"grid": []}, "is a comparison of rows"),
        ({}, {"grid": ["trainin.epochs=1,2"]}, "the recipe has no trainin. Did you mean 'training'"),
        ({}, {"grid": ["seed=1,2"]}, "give --seeds instead"),
        ({}, {"grid": ["stream.order_seed=1,2"]}, "give --orders instead"),
        ({}, {"grid": ["training.epochs=1", "training.epochs=2"]}, "is given twice"),
        ({"stream": {"type": "domain_incremental"}}, {"grid": [], "orders": 2}, "--orders is for streams that split"),
        ({"tasks": {}}, {"grid": [], "orders": 2}, "--orders is for streams that split"),
        ({"stream": {"type": "class_incremental", "order": [1, 0]}}, {"grid": [], "orders": 2}, "fixes the order"),
        ({}, {"grid": ["x=a/b,a b"]}, "would be run in the folder"),
        ({"seed": "a"}, {"grid": []}, "seed"),
        ({"stream": 5}, {"grid": [], "orders": 2}, "stream must be a mapping"),
        ({"stream": {"validation": 5}}, {"grid": [], "select": True}, "stream.validation must be a mapping"),
        (
            {"stream": {"validation": {"share": 0.1, "instead_of_test": True}}},
            {"grid": []},
            "leave out instead_of_test",
        ),
    ],
)
def test_wrong_sweeps(changes, arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan_sweep(
            {**RECIPE, **changes}, axes(*arguments["grid"]), **{k: v for k, v in arguments.items() if k != "grid"}
        )
