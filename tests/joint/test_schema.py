"""results.json of kind "joint": the first thing that is wrong is named in one line."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from squares import make_recipe, train

from mtpeft.errors import DataError
from mtpeft.evaluation.results import to_json, validate


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Those of a short run."""
    recipe = make_recipe(training={"steps": 2, "eval_every": 1}, pictures=0)
    found = train(recipe, tmp_path_factory.mktemp("run") / "run")[1]
    assert found is not None
    return found


DELETE = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["delta"], DELETE, "key 'delta' is missing"),
        (["tasks", 0, "val_samples"], 0, "tasks[0].val_samples must be an integer of at least 1, got 0"),
        (["main", "depth"], "low", "main.depth must be a finite number or null, got 'low'"),
        (["main", "depth"], 7.0, "main.depth is 7.0, but final.depth.rmse is not"),
        (["final", "depth", "rmse"], DELETE, "final.depth lacks the task's main metric 'rmse'"),
        (["single_task", "parts"], 1.0, "single_task has the tasks"),
        (["history", 1, "step"], 1, "history must have entries with growing steps, got [1, 1]"),
        (["history"], [], "history must have entries"),
        (["best"], {"step": 0, "delta": 1.0}, "best.step must be an integer of at least 1, got 0"),
        (["gradient_conflict", "cosine"], [[1.0]], "gradient_conflict.cosine must have a row and a column per task"),
        (["curves", "train_loss", 0, "task"], "parts", "curves.train_loss[0].task is 'parts'"),
        (["flops", "heads", "depth"], DELETE, "flops.heads has the tasks"),
        (["skipped", "depth"], -1, "skipped.depth must be an integer of at least 0, got -1"),
        (["frozen", "unchanged"], False, "frozen.unchanged contradicts"),
        (["scenario"], "joint", "unknown key 'scenario'"),
    ],
)
def test_wrong_keys_are_named(results: dict[str, Any], path: list[Any], value: Any, message: str) -> None:
    validate(results)
    wrong = copy.deepcopy(results)
    place = wrong
    for key in path[:-1]:
        place = place[key]
    if value is DELETE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(DataError) as caught:
        to_json(wrong)
    assert message in str(caught.value) and "\n" not in str(caught.value)
