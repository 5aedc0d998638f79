"""Accuracy of every class and the confusion of classes on the page."""

from __future__ import annotations

import json
import re

import pytest
from browser import LISTENER, drawn, dump
from classes_factory import with_counts
from elements import Elements
from results_factory import make_results

from mtpeft.evaluation import validate
from mtpeft.report.confusion import Class, Counts, class_accuracies, labels_of
from mtpeft.report.groups import streams_of
from mtpeft.report.page import render


def charts(page: str) -> list[dict]:
    """The figures of the cards about classes: the accuracies, then a map per group."""
    parsed = Elements(page)
    labels = {a["id"]: a["aria-label"] for tag, a in parsed.found if a.get("class") == "plot"}
    chosen = [
        name for name, label in labels.items() if "accuracy of every class" in label or "takes for which" in label
    ]
    return [json.loads(parsed.scripts[name]) for name in chosen]


def small(**changes):
    """Two tasks of two classes; the numbers of the tests below."""
    run = make_results(total=2, **changes)
    run["matrix"]["samples"] = [[10, 10], [10, 10]]
    run["confusion"] = [
        {"task": run["tasks"][0]["name"], "classes": ["cat", "dog"], "rows": [0, 1], "counts": [[4, 1], [2, 3]]},
        {"task": run["tasks"][1]["name"], "classes": ["hat", "cap"], "rows": [0, 1], "counts": [[5, 0], [5, 0]]},
    ]
    validate(run)
    return run


def test_tasks_that_are_known_stand_on_the_diagonal():
    counts = Counts.of([small()])
    assert labels_of(counts.classes) == ["cat", "dog", "hat", "cap"]
    assert counts.cells == ((4, 1, None, None), (2, 3, None, None), (None, None, 5, 0), (None, None, 5, 0))
    assert counts.mistakes() == [(5, 3, 2), (2, 1, 0), (1, 0, 1)], "the most frequent first"
    accuracy, heat = charts(render([small()]))
    assert accuracy["data"][0]["x"] == [80.0, 60.0, 100.0, 0.0]
    assert heat["data"][0]["z"] == [[0.8, 0.2, None, None], [0.4, 0.6, None, None], *[[None, None, 1.0, 0.0]] * 2]
    assert [note["text"] for note in heat["layout"]["annotations"]] == ["4", "1", "2", "3", "5", "0", "5", "0"]
    axis = heat["layout"]["xaxis"]
    assert axis["type"] == "category" and axis["tickvals"] == axis["ticktext"] == ["cat", "dog", "hat", "cap"]
    assert [note["x"] for note in heat["layout"]["annotations"]] == ["cat", "dog"] * 2 + ["hat", "cap"] * 2


def test_classes_behind_a_common_head_are_one_map():
    run = small(scenario="class_incremental")
    names = ["cat", "dog", "hat", "cap"]
    first, second = run["confusion"]
    first |= {"classes": names, "counts": [[1, 0, 4, 0], [0, 0, 5, 0]]}
    second |= {"classes": names, "rows": [2, 3], "counts": [[0, 0, 5, 0], [0, 0, 1, 4]]}
    validate(run)
    counts = Counts.of([run])
    assert counts.cells == ((1, 0, 4, 0), (0, 0, 5, 0), (0, 0, 5, 0), (0, 0, 1, 4))
    [stream] = streams_of([run])
    means = {one.name: values[0].mean for one, values in class_accuracies(stream).items()}
    assert means == {"cat": 20.0, "dog": 0.0, "hat": 100.0, "cap": 80.0}


def test_domains_are_added_up_and_told_apart_in_the_accuracies():
    run = small(scenario="domain_incremental")
    for entry in run["confusion"]:
        entry["classes"] = ["cat", "dog"]
    assert Counts.of([run]).cells == ((9, 1), (7, 3))
    [stream] = streams_of([run])
    accuracies = class_accuracies(stream)
    assert [values[0].mean for values in accuracies.values()] == [80.0, 60.0, 100.0, 0.0]
    names = [task["name"] for task in run["tasks"]]
    assert labels_of(list(accuracies)) == [f"{one} ({name})" for name in names for one in ("cat", "dog")]
    assert "Tasks are added up." in Elements(render([run])).text


def test_seeds_are_added_up_and_averaged_and_groups_stand_side_by_side():
    other, third = small(seed=1), small(name="ssf")
    other["confusion"][0]["counts"] = [[2, 3], [2, 3]]
    page = render([small(), other, third])
    accuracy, first, second = charts(page)
    assert accuracy["data"][0]["x"][0] == pytest.approx(60.0), "the mean of 80 and 40"
    assert accuracy["data"][0]["error_x"]["array"][0] == pytest.approx(28.2842712), "40 / sqrt 2"
    assert accuracy["data"][1]["x"][0] == 80.0
    assert first["data"][0]["customdata"][0][:2] == [6, 4] and second["data"][0]["customdata"][0][:2] == [4, 1]
    text = Elements(page).text
    assert "60.00 ± 28.28" in text and "Seeds are added up." in text


def test_equal_names_are_told_apart():
    classes = [Class("crane", "a", 0), Class("crane", "a", 1), Class("crane", "b", 0), Class("cat", "a", 2)]
    assert labels_of(classes) == ["crane (a 1)", "crane (a 2)", "crane (b)", "cat"]
    common = [Class("crane", "", 0), Class("crane", "", 1)]
    assert labels_of(common) == ["crane (1)", "crane (2)"]
    run = small()
    run["confusion"][1]["classes"] = ["crane", "crane"]
    assert Counts.of([run]).cells[2:] == ((None, None, 5, 0), (None, None, 5, 0)), "they stay two classes"


def test_many_classes_are_a_map_without_numbers_and_a_table_of_mistakes():
    run = with_counts(make_results(scenario="class_incremental"), per_task=20, samples=50)
    validate(run)
    page = render([run])
    accuracy, heat = charts(page)
    assert len(accuracy["data"][0]["x"]) == 30
    found = sorted(values[0].mean for values in class_accuracies(streams_of([run])[0]).values())
    assert sorted(accuracy["data"][0]["x"]) == found[:30], "those with the lowest accuracy"
    assert len(heat["data"][0]["z"]) == 100 and "annotations" not in heat["layout"]
    assert heat["layout"]["height"] <= 450 and heat["layout"]["xaxis"]["showticklabels"] is False
    text = Elements(page).text
    part = text[text.index("the 10 most frequent mistakes") :]
    amount, true, predicted = Counts.of([run]).mistakes()[0]
    row = part[part.index(f"class {true}") :].split("\n")
    assert row[:4] == [f"class {true}", f"class {predicted}", str(amount), f"{100 * amount / 50:.2f}"]


def test_runs_without_counts_have_no_cards_and_are_named_beside_others():
    assert charts(render([make_results()])) == []
    page = render([small(), make_results("older", total=2)])
    assert len(charts(page)) == 2
    assert "did not keep the counts" in Elements(page).text


def test_a_name_cannot_break_the_page():
    evil = "</script><b>&\"'"
    run = small()
    run["confusion"][0]["classes"] = [evil, "dog"]
    page = render([run])
    assert evil not in page and evil in Elements(page).text
    assert all(chart["data"] for chart in charts(page))


def test_maps_are_drawn(tmp_path):
    digits = small()
    for entry, names in zip(digits["confusion"], (["3", "0"], ["2", "1"]), strict=True):
        entry["classes"] = names
    runs = [with_counts(make_results("many", scenario="class_incremental"), per_task=20, samples=50), digits]
    page = render(runs)
    (tmp_path / "report.html").write_text(page.replace("<head>", f"<head>{LISTENER}", 1))
    dom = dump(tmp_path / "report.html", tmp_path / "profile")
    assert drawn(dom) == page.count('class="plot"')
    assert dom.count('class="heatmaplayer') >= 4, "two accuracy matrices, two maps"
    part = dom[dom.index("which classes lora takes for which") :]
    pattern = r'class="ytick"><text [^>]*data-unformatted="(\d)"[^>]*translate\(0,([\d.]+)\)'
    places = {name: float(y) for name, y in re.findall(pattern, part)}
    assert sorted(places, key=lambda name: places[name]) == ["3", "0", "2", "1"], "no name is taken for a position"
