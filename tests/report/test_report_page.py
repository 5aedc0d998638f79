"""The page is complete, loads nothing, escapes what it shows, and is the same for the same input."""

from __future__ import annotations

import html
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from elements import Elements
from results_factory import make_results

import mtpeft.report
from mtpeft.errors import DataError, MtpeftError
from mtpeft.evaluation import compute_measures, matrix_of
from mtpeft.evaluation.results import validate
from mtpeft.report import write_report
from mtpeft.report.charts import PALETTE, palette
from mtpeft.report.heatmap import colour_at, luminance, text_colour
from mtpeft.report.numbers import count, number
from mtpeft.report.page import render


@pytest.fixture(scope="module")
def runs():
    return [make_results(name, seed, drop=drop) for name, drop in (("full", 11.0), ("lora", 6.0)) for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def page(runs) -> str:
    return render(runs)


def test_nothing_is_loaded_from_anywhere(page):
    loads = [
        (tag, attribute, value)
        for tag, attributes in Elements(page).found
        for attribute, value in attributes.items()
        if attribute in ("src", "href", "srcset", "data", "action", "poster") and not (value or "").startswith("#")
    ]
    assert loads == []
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1] and "@import" not in style[1]
    assert "default-src 'none'" in html.unescape(page[:1000])


def test_plotly_is_inlined_once(page):
    assert page.count("plotly.js v") == 1


def test_every_number_is_in_the_tables(page, runs):
    text = Elements(page).text
    for run in runs:
        for row in run["matrix"]["values"]:
            for value in row:
                assert number(value, "%") in text
        for measure in run["measures"]:
            assert measure["formula"] in text
            assert measure["source"] in text
            if isinstance(measure["value"], float):
                assert number(measure["value"], measure["unit"]) in text
        for kind in ("method", "norm_bias", "head", "buffers", "backbone"):
            assert count(run["parameters"][kind]) in text
        for value in (*run["environment"].values(), run["parameters"]["rule"], run["frozen"]["fingerprint_after"]):
            assert str(value) in text
        assert json.dumps({"recipe": run["recipe"], "input": run["input"]}, indent=2, sort_keys=True) in text


def test_baselines_are_always_rows_of_the_comparison():
    text = Elements(render([make_results()])).text
    comparison = text[text.index("Methods compared") : text.index("Accuracy as tasks are added")]
    assert "Linear probe (frozen)" in comparison
    assert "93.92" in comparison  # (93.1 + 88.4 + 97.9 + 91.2 + 99.0) / 5
    assert "Nearest class mean (frozen)" in comparison
    assert "89.94" in comparison


def test_baselines_that_were_not_measured_say_so():
    run = make_results()
    run["baselines"] = {}
    text = Elements(render([run])).text
    comparison = text[text.index("Methods compared") : text.index("Accuracy as tasks are added")]
    assert comparison.count("not measured") == 2


def test_baselines_have_a_curve_where_one_was_measured():
    run = make_results()
    run["baselines"]["linear_probe"]["curve"] = [99.0, 98.0, 97.0, 96.0, 95.0]
    first, second, _ = json.loads(Elements(render([run])).scripts["plot-1"])["data"]
    assert first["y"] == [99.0, 98.0, 97.0, 96.0, 95.0]
    assert second["y"] == pytest.approx([89.94] * 5), "else its average at the end of the stream"


def test_seeds_means_and_deviations_are_shown(page, runs):
    text = Elements(page).text
    accuracies = [run["measures"][0]["value"] for run in runs if run["name"] == "lora"]
    mean = sum(accuracies) / 3
    std = (sum((value - mean) ** 2 for value in accuracies) / 2) ** 0.5
    assert f"{mean:.2f} ± {std:.2f}" in text
    assert "0, 1, 2" in text


def test_a_name_cannot_break_the_page():
    evil = "</script><script>alert(1)</script><b>&\"'"
    run = make_results(evil, note=evil)
    run["tasks"][0]["name"] = evil
    run["parameters"]["trainable_per_task"] = {evil: 1}
    run["curves"]["train_loss"] = [{"task": evil, "step": 1, "loss": 0.5}]
    page = render([run])
    parsed = Elements(page)
    assert evil not in page
    assert evil in parsed.text
    plain = Elements(render([make_results()]))
    assert [tag for tag, _ in parsed.found] == [tag for tag, _ in plain.found], "no element more than without it"
    for data in parsed.scripts.values():
        json.loads(data)


def test_each_chart_has_its_data_and_a_text_for_those_who_cannot_see_it(page):
    parsed = Elements(page)
    plots = [attributes for tag, attributes in parsed.found if tag == "div" and attributes.get("class") == "plot"]
    assert [plot["id"] for plot in plots] == [f"plot-{k}" for k in range(1, len(plots) + 1)]
    assert len(plots) == 1 + 4 + 6 + 2 + 1  # average, forgetting of 4 tasks, 6 matrices, learning and loss, weights
    for plot in plots:
        assert plot["aria-label"]
        assert json.loads(parsed.scripts[plot["id"]])["data"]


def test_charts_hold_the_numbers(page, runs):
    scripts = Elements(page).scripts
    lora = json.loads(scripts["plot-1"])["data"][-1]
    curves = [
        m["value"] for run in runs if run["name"] == "lora" for m in run["measures"] if m["name"] == "accuracy_curve"
    ]
    assert lora["y"] == pytest.approx([sum(values) / 3 for values in zip(*curves, strict=True)])
    heat = json.loads(scripts["plot-6"])
    shown = [note["text"] for note in heat["layout"]["annotations"]]
    assert shown == [f"{value:.1f}" for row in runs[0]["matrix"]["values"] for value in row]


def test_a_stream_of_one_task_and_one_of_mixed_metrics_have_a_page_too():
    text = Elements(render([make_results(total=1)])).text
    assert "Forgetting, task by task" not in text
    assert "needs at least two tasks" in text
    mixed = make_results(total=2)
    mixed["tasks"][1] |= {"metric": "rmse", "unit": "m", "higher_is_better": False}
    mixed["matrix"]["values"] = [[90.0, None], [80.0, 0.53]]
    mixed["matrix"]["samples"] = [[10, 0], [10, 10]]
    mixed["measures"] = [measure.to_dict() for measure in compute_measures(matrix_of(mixed))]
    text = Elements(render([mixed])).text
    assert "0.53" in text
    assert "measured differently: accuracy (%), rmse (m)" in text


def test_the_same_results_give_the_same_bytes_and_a_wrong_one_leaves_the_old_page(tmp_path, runs):
    target = write_report(runs, tmp_path / "report.html")
    first = target.read_bytes()
    assert write_report(json.loads(json.dumps(runs)), target).read_bytes() == first
    with pytest.raises(MtpeftError):
        write_report([{}], target)
    assert target.read_bytes() == first


def test_language_title_and_headings(page):
    parsed = Elements(page)
    assert ("html", {"lang": "en"}) in parsed.found
    assert "<title>mtpeft: full · lora</title>" in page
    levels = [int(tag[1]) for tag, _ in parsed.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "no level is left out"
    tables = sum(tag == "table" for tag, _ in parsed.found)
    assert tables == sum(tag == "caption" for tag, _ in parsed.found)
    assert all(attributes.get("scope") for tag, attributes in parsed.found if tag == "th")


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def style_colours() -> list[dict[str, str]]:
    """The custom properties of the light and of the dark mode."""
    text = (Path(mtpeft.report.__file__).parent / "style.css").read_text()
    return [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)]


def test_contrast_of_text_and_lines_in_both_modes():
    light, dark = style_colours()
    for mode in (light, dark):
        for ground in ("page", "card"):
            for text in ("ink", "muted", "accent"):
                assert contrast(mode[text], mode[ground]) >= 4.5, (text, ground)
            for colour in PALETTE:
                assert contrast(colour, mode[ground]) >= 3.0, (colour, ground)
    for step in range(101):
        assert contrast(text_colour(step / 100), colour_at(step / 100)) >= 4.2


def test_series_differ_in_colour_and_marker():
    assert len({palette(index) for index in range(8)}) == 8
    assert len({palette(index)[1] for index in range(8)}) == 8


def test_bytes_in_training_are_told_where_results_have_them():
    """Those of earlier versions have none, and no card about them."""
    old, new = make_results("lora"), make_results("ssf")
    names = [task["name"] for task in new["tasks"]]
    facts = {"method": 2**20, "head": 512, "gradients": 3 * 2**20, "optimizer": 6 * 2**20, "activations": 1536}
    new["memory"] = {
        "backbone": 5 * 2**20,
        "optimizer": "SGD",
        "precision": "float32",
        "per_task": {name: {"trained": 262_272, **facts, "fixed": 0} for name in names},
        "rule": "bytes of each task",
    }
    assert "Memory in training" not in render([old])
    text = Elements(render([old, new])).text
    for told in (
        "262,272",
        "1.0 MiB",
        "512 B",
        "3.0 MiB",
        "Optimiser (SGD)",
        "6.0 MiB",
        "1.5 KiB",
        "bytes of each task",
    ):
        assert told in text
    with pytest.raises(DataError, match=r"memory\.per_task names 'other'"):
        new["memory"]["per_task"]["other"] = new["memory"]["per_task"][names[0]]
        validate(new)
