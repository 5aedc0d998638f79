"""A run beside published values, on both kinds of pages."""

from __future__ import annotations

from typing import Any

from joint_factory import make_joint
from results_factory import make_results

from mtpeft.evaluation import matrix_of
from mtpeft.evaluation.results import measures_of
from mtpeft.report.numbers import number
from mtpeft.report.page import render

TITLE = "Beside published values"


def card(page: str) -> str:
    """The card's HTML."""
    start = page.index(TITLE)
    return page[start : page.index("</section>", start)]


def quoted(run: dict[str, Any], **values: float) -> dict[str, Any]:
    published = {"Their <best>": {"source": "Someone et al. 2022, table 1", "values": values}}
    return {**run, "recipe": {**run["recipe"], "published": published}}


def test_continual_runs() -> None:
    run = make_results("lora", 0)
    task = run["tasks"][0]["name"]
    shown = card(render([quoted(run, average_accuracy=83.25, **{task: 91.5})]))
    assert "Their &lt;best&gt;" in shown and "Someone et al. 2022, table 1" in shown
    assert "83.25" in shown and "91.50" in shown
    assert number(measures_of(run)["average_accuracy"]["value"], "%") in shown
    assert number(float(matrix_of(run).values[-1, 0]), "%") in shown
    both = render([quoted(make_results("lora", seed), average_accuracy=83.25) for seed in (0, 1)])
    assert card(both).count("Their &lt;best&gt;") == 1 and " ± " in card(both)
    assert TITLE not in render([run])


def test_joint_runs() -> None:
    run = make_joint()
    shown = card(render([quoted(run, delta=2.22, semseg=55.5)]))
    assert "Multi-task delta [%]" in shown and "2.22" in shown and "55.50" in shown
    assert number(run["delta"], "%") in shown and number(run["main"]["semseg"], "%") in shown
    assert TITLE not in render([run])


def test_what_was_done_to_images() -> None:
    run = make_results("lora", 0)
    images = {"train": "a random crop", "test": "center crop of 224 x 224", "decoder": "Pillow 1"}
    page = render([{**run, "input": {**run["input"], "images": images}}])
    assert all(text in page for text in ("Training images", *images.values()))
