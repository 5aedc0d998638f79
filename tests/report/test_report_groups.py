"""Which runs are averaged, which are told apart, and how a mean over seeds is computed."""

from __future__ import annotations

import copy

import pytest
from results_factory import make_results

from mtpeft.errors import MtpeftError
from mtpeft.report.groups import Statistic, differences, streams_of
from mtpeft.report.numbers import count, number, statistic


def with_measure(results, name, value):
    changed = copy.deepcopy(results)
    for measure in changed["measures"]:
        if measure["name"] == name:
            measure["value"] = value
            measure["reason"] = "" if value is not None else "made undefined"
    return changed


def test_runs_that_differ_in_the_seed_only_are_one_group():
    runs = [make_results("lora", seed) for seed in (0, 1, 2)]
    runs = [with_measure(run, "average_accuracy", value) for run, value in zip(runs, (80.0, 83.0, 89.0), strict=True)]
    [stream] = streams_of(runs)
    [group] = stream.groups
    assert group.seeds == [0, 1, 2]
    found = group.measure("average_accuracy")
    assert found.mean == pytest.approx(84.0)  # 252 / 3
    assert found.std == pytest.approx(4.58257569)  # sqrt((16 + 1 + 25) / 2) = sqrt(21)
    assert statistic(found, "%") == "84.00 ± 4.58"


def test_other_recipes_backbones_and_inputs_are_other_groups():
    other_input = make_results("lora", 1)
    other_input["input"]["mean"] = [0.0, 0.0, 0.0]
    [stream] = streams_of([make_results("lora", 0), make_results("lora", 0, rank=4), other_input])
    assert [len(group.runs) for group in stream.groups] == [1, 1, 1]


def test_groups_of_one_name_are_told_apart_by_what_differs():
    [stream] = streams_of([make_results("lora", 0, rank=8), make_results("lora", 0, rank=4), make_results("ssf")])
    assert [group.label for group in stream.groups] == ["lora (rank=8)", "lora (rank=4)", "ssf"]
    assert differences(stream.groups[:2]) == {"method.rank": [8, 4]}


def test_names_that_carry_the_seed_are_shown_without_it():
    runs = []
    for seed in (0, 1):
        run = make_results("lora", seed)
        run["name"] = f"lora-seed{seed}"
        runs.append(run)
    [stream] = streams_of(runs)
    assert [group.label for group in stream.groups] == ["lora"]


def test_streams_with_other_tasks_or_scenarios_are_never_compared():
    runs = [make_results("a"), make_results("a", scenario="class_incremental"), make_results("a", total=3)]
    assert [stream.title for stream in streams_of(runs)] == [
        "Task-incremental, 5 tasks",
        "Class-incremental, 5 tasks",
        "Task-incremental, 3 tasks",
    ]


def test_the_same_seed_twice_is_refused():
    with pytest.raises(MtpeftError, match="run 'lora' with seed 3 was given twice"):
        streams_of([make_results("lora", 3), make_results("lora", 3)])


def test_no_results_and_wrong_results_are_refused():
    with pytest.raises(MtpeftError, match="at least one run"):
        streams_of([])
    with pytest.raises(MtpeftError, match="key 'schema' is missing"):
        streams_of([{key: value for key, value in make_results().items() if key != "schema"}])


def test_a_mean_needs_every_run():
    runs = [make_results("lora", 0), with_measure(make_results("lora", 1), "forward_transfer", None)]
    [stream] = streams_of(runs)
    assert stream.groups[0].measure("forward_transfer") == Statistic(None)


def test_baselines_are_shown_once_per_seed():
    runs = [make_results(name, seed) for name in ("lora", "ssf") for seed in (0, 1)]
    for run in runs:
        run["baselines"]["linear_probe"]["values"] = [90.0 + run["seed"]] * 5
    [stream] = streams_of(runs)
    probe, mean = stream.baselines
    assert probe.seeds == (0, 1)
    assert probe.average == Statistic(90.5, pytest.approx(0.70710678))
    assert mean.average.mean == pytest.approx(89.94)  # (89.6 + 81.0 + 96.3 + 84.7 + 98.1) / 5


def test_numbers():
    assert number(None, "%") == "–"
    assert number(-12.345, "points") == "−12.35" or number(-12.345, "points") == "−12.34"
    assert number(-0.0001, "points") == "0.00", "no minus before zero"
    assert number(0.012345, "m") == "0.01235" or number(0.012345, "m") == "0.01234"
    assert count(1234567) == "1,234,567"
    assert count(None) == "–"
