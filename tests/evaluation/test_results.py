"""results.json: what is written is read back, equal results are equal bytes, and a wrong key is named."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
from results_factory import make_results

import mtpeft.evaluation
from mtpeft.errors import CheckpointError, MtpeftError
from mtpeft.evaluation import AccuracyMatrix, matrix_of, read, validate, write
from mtpeft.evaluation.schema import RESULTS


def test_round_trip(tmp_path):
    results = make_results()
    write(tmp_path / "results.json", results)
    again = read(tmp_path / "results.json")
    assert again == results
    np.testing.assert_equal(matrix_of(again).values, np.array(results["matrix"]["values"]))
    assert isinstance(matrix_of(again), AccuracyMatrix)


def test_equal_results_are_equal_bytes(tmp_path):
    results = make_results()
    shuffled = {key: results[key] for key in reversed(results)}
    write(tmp_path / "a.json", results)
    write(tmp_path / "b.json", shuffled)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_missing_evaluations_are_null_and_come_back_as_nan(tmp_path):
    results = make_results(total=2)
    results["matrix"] = {"values": [[90.0, None], [80.0, 95.0]], "samples": [[10, 0], [10, 10]]}
    write(tmp_path / "results.json", results)
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert np.isnan(matrix_of(read(tmp_path / "results.json"))[0, 1])


def change(results, path, value):
    """A copy of `results` with one key, given as a list of steps, set (or removed by `...`)."""
    changed = copy.deepcopy(results)
    place = changed
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 7, "schema must be 1, got 7: written by another version of mtpeft"),
        (["kind"], "federated", "kind must be one of 'continual', got 'federated'"),
        (["seed"], ..., "key 'seed' is missing"),
        (["seed"], True, "seed must be an integer, got True"),
        (["sceneario"], "x", "unknown key 'sceneario'. Did you mean 'scenario'"),
        (
            ["scenario"],
            "online",
            "scenario must be one of 'task_incremental', 'class_incremental', 'domain_incremental'",
        ),
        (["backbone", "fingerprint"], 3, "backbone.fingerprint must be a text, got 3"),
        (["tasks", 1, "metric"], ..., "key 'tasks[1].metric' is missing"),
        (["tasks", 1, "name"], "t-shirt and trouser", "task 't-shirt and trouser' occurs twice"),
        (["tasks", 0, "test_samples"], 0, "tasks[0].test_samples must be an integer of at least 1, got 0"),
        (["tasks"], {}, "tasks must be a list, got {}"),
        (["matrix", "values", 2, 1], float("nan"), "matrix.values[2][1] must be a finite number or null, got nan"),
        (["matrix", "values", 0], [1.0], "matrix.values must be 5 rows of 5 entries"),
        (["matrix", "samples", 0, 0], 0, "was computed on 0 samples"),
        (["recipe", "lr"], np.float32(0.1), "recipe.lr must be a value of plain types"),
        (["recipe"], [], "recipe must be a mapping, got []"),
        (["reference", "random_init"], [1.0], "reference.random_init has 1 entries for 5 tasks"),
        (["baselines", "linear_prob"], {}, "unknown key 'baselines.linear_prob'. Did you mean 'linear_probe'"),
        (["baselines", "nearest_class_mean", "values"], [], "baselines.nearest_class_mean.values has 0 entries"),
        (["parameters", "trainable_per_task"], {"shoes": 1}, "parameters.trainable_per_task names 'shoes'"),
        (["frozen", "unchanged"], False, "frozen.unchanged contradicts the two fingerprints"),
        (["curves", "train_loss", 1, "step"], 1, "curves.train_loss[1].step is 1 after 1"),
        (["curves", "train_loss", 0, "task"], "x", "curves.train_loss[0].task is 'x', which is not one of the tasks"),
        (["measures", 0, "value"], None, "measures[0].reason is empty although 'average_accuracy' has no value"),
        (["measures"], [], "measures lack 'average_accuracy'"),
        (["environment", "threads"], "2", "environment.threads must be an integer of at least 1, got '2'"),
    ],
)
def test_wrong_keys_are_named_in_one_line_and_never_written(tmp_path, path, value, message):
    target = tmp_path / "results.json"
    target.write_text("earlier results")
    with pytest.raises(MtpeftError, match=re.escape(message)) as caught:
        write(target, change(make_results(), path, value))
    assert "\n" not in str(caught.value)
    assert target.read_text() == "earlier results"


def with_confusion():
    """Two tasks whose test sets were counted by class."""
    results = make_results(total=2)
    results["matrix"]["samples"] = [[10, 10], [10, 10]]
    names = [task["name"] for task in results["tasks"]]
    results["confusion"] = [
        {"task": name, "classes": ["cat", "dog"], "rows": [0, 1], "counts": [[4, 1], [2, 3]]} for name in names
    ]
    return results


def test_confusion_and_pictures_are_optional(tmp_path):
    results = with_confusion() | {"pictures": "pictures"}
    write(tmp_path / "results.json", results)
    assert read(tmp_path / "results.json") == results
    validate(change(results, ["confusion"], results["confusion"][1:]))
    validate(make_results())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ([0, "task"], "hats", "confusion[0].task is 'hats', which is not one of the tasks"),
        ([1, "task"], "t-shirt and trouser", "confusion[1].task is 't-shirt and trouser', which is given twice"),
        ([0, "rows"], [0, 0], "confusion[0].rows must be different places in the 2 classes beside it, got [0, 0]"),
        ([0, "rows"], [0, 2], "confusion[0].rows must be different places in the 2 classes beside it, got [0, 2]"),
        ([1, "counts"], [[4, 6]], "confusion[1].counts must be 2 rows of 2 counts"),
        ([1, "counts", 0], [4, 1, 0], "confusion[1].counts must be 2 rows of 2 counts"),
        ([1, "counts", 0, 0], 5, "confusion[1].counts are of 11 samples, but matrix.samples of that task says 10"),
        ([1, "counts", 0, 0], -1, "confusion[1].counts[0][0] must be an integer of at least 0, got -1"),
        ([0, "classes"], ..., "key 'confusion[0].classes' is missing"),
    ],
)
def test_wrong_counts_are_named_in_one_line(path, value, message):
    with pytest.raises(MtpeftError, match=re.escape(message)) as caught:
        validate(change(with_confusion(), ["confusion", *path], value))
    assert "\n" not in str(caught.value)


def test_not_a_mapping():
    with pytest.raises(MtpeftError, match="results must be a mapping"):
        validate([])  # type: ignore[arg-type]


def test_a_missing_file_says_when_it_is_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no .*results\.json; it is written when a run has finished"):
        read(tmp_path / "results.json")


@pytest.mark.parametrize("text", ["{", '{"schema": NaN}', ""])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"results\.json is damaged, not JSON"):
        read(tmp_path / "results.json")


def test_a_foreign_file_is_named(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"accuracy": 1}))
    with pytest.raises(CheckpointError, match=r"results\.json: unknown key 'accuracy'"):
        read(tmp_path / "results.json")


def test_every_key_is_documented():
    folder = Path(mtpeft.evaluation.__file__).parent
    for text in ((folder / "SCHEMA.md").read_text(), mtpeft.evaluation.results.__doc__):
        for name in keys_of(RESULTS):
            assert re.search(rf"\b{name}\b", text), f"{name} is not documented"


def keys_of(spec) -> set[str]:
    if isinstance(spec, list):
        return keys_of(spec[0])
    if not isinstance(spec, dict):
        return set()
    return {key.rstrip("?") for key in spec} | set().union(*(keys_of(value) for value in spec.values()))
