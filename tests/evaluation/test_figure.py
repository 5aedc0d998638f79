"""One number for a run, and the trade-off with trained weights."""

from __future__ import annotations

import math

import pytest
from results_factory import make_results

from mtpeft.evaluation.figure import DELTA, Figure, figure_of, task_values, trade_off, trained_weights


def test_tasks_measured_alike_have_a_mean():
    results = make_results("lora", 0)
    figure = figure_of(results)
    assert figure is not None and (figure.title, figure.unit, figure.higher_is_better) == (
        "average accuracy",
        "%",
        True,
    )
    assert figure.value == pytest.approx(sum(results["matrix"]["values"][-1]) / len(results["tasks"]))
    assert list(task_values(results)) == [task["name"] for task in results["tasks"]]
    assert figure.share == pytest.approx(figure.value / 100)


def test_tasks_measured_differently_have_a_delta_or_nothing():
    results = make_results("lora", 0)
    results["tasks"][0] = {**results["tasks"][0], "metric": "rmse", "unit": "m", "higher_is_better": False}
    results["measures"] = [m for m in results["measures"] if m["name"] != "multi_task_delta"]
    assert figure_of(results) is None
    results["measures"].append({"name": "multi_task_delta", "value": -1.5})
    assert figure_of(results) == Figure(DELTA, "%", True, -1.5)
    assert figure_of(results).share is None


def test_weights_leave_out_heads():
    results = make_results("lora", 0)
    assert trained_weights(results) == results["parameters"]["method"] + results["parameters"]["norm_bias"]


def test_trade_off():
    """M exp(-log10(P / 10^7 + 1)): no weights cost nothing, ten million cost the factor exp(-log10 2)."""
    assert trade_off(0.8, 0) == 0.8
    assert trade_off(0.8, 10_000_000) == pytest.approx(0.8 * math.exp(-math.log10(2)))
    assert trade_off(0.8, 90_000_000) == pytest.approx(0.8 / math.e)
