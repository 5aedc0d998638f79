"""A stream of tasks that are measured differently: colours and forgetting in each task's own direction and unit."""

from __future__ import annotations

import io
import json

import pytest
from dense_factory import make_dense
from elements import Elements
from rich.console import Console

from mtpeft.report import print_summary
from mtpeft.report.page import render


@pytest.fixture(scope="module")
def runs():
    return [make_dense("full", harm=2.0, single=True), make_dense("adaptformer", harm=0.5, single=True)]


@pytest.fixture(scope="module")
def parsed(runs) -> Elements:
    return Elements(render(runs))


def test_good_is_dark_whatever_the_direction(parsed):
    maps = [chart for chart in map(json.loads, parsed.scripts.values()) if chart["data"][0]["type"] == "heatmap"]
    full, adapter = (chart["data"][0]["z"] for chart in maps)
    for j in range(3):
        assert full[j][j] == 1.0, "best of its column: right after it was learned"
    assert full[0][0] > full[1][0] > full[2][0] == 0.0, "52 % to 28 %: worse is lighter"
    assert full[1][1] > full[2][1], "0.25 m to 0.41 m: worse is lighter, though the number is larger"
    assert adapter[2][1] > full[2][1], "one scale for all runs"
    assert maps[0]["layout"]["xaxis"]["ticktext"] == ["1 [%]", "2 [m]", "3 [deg]"]


def test_forgetting_is_shown_in_units_and_relative(parsed):
    text = parsed.text
    part = text[text.index("Forgetting, task by task") : text.index("Matrices of the metrics")]
    assert "1. semseg: mIoU [points]" in part and "2. depth: rmse [m]" in part
    assert "24.00" in part and "0.1600" in part  # 2 x 6 x 2 points; 2 x 0.08 m
    assert "in percent of its value when it was learned" in part
    assert "46.15" in part and "64.00" in part  # 24 of 52 %; 0.16 of 0.25 m


def test_methods_are_compared_by_final_values_and_relative_averages(runs, parsed):
    text = parsed.text
    part = text[text.index("Methods compared") : text.index("Forgetting, task by task")]
    for title in (
        "semseg: mIoU ↑ [%]",
        "depth: rmse ↓ [m]",
        "normals: mean ↓ [deg]",
        "Average relative forgetting [%]",
    ):
        assert title in part
    for value in ("28.00", "0.4100", "18.00", "55.08"):  # (46.15 + 64) / 2
        assert value in part
    assert "46.80" in part and "0.2778" not in part and "0.2780" in part, "the linear probe, rounded in the results"
    delta = 100 * ((28 - 53) / 53 - (0.41 - 0.24) / 0.24 - (18 - 17.5) / 17.5) / 3
    assert f"−{-delta:.2f}" in part


def test_terminal(runs):
    console = Console(file=io.StringIO(), width=160)
    print_summary(runs, console)
    [row] = [line for line in console.file.getvalue().splitlines() if line.startswith("│ full")]
    assert "28.00" in row and "0.4100" in row and "55.08" in row


def test_results_without_relative_forgetting_still_have_a_page(runs):
    older = json.loads(json.dumps(runs[0]))
    older["measures"] = [m for m in older["measures"] if "relative" not in m["name"]]
    older["name"] = "older"
    text = Elements(render([older, runs[1]])).text
    assert "Average relative forgetting [%]" in text
    assert "in percent of its value when it was learned" in text
