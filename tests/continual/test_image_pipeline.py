"""Keys `input`, `augment` and `published` of a run: what they do to its results and its report, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_recipe import make_recipe
from small_runs import train

from mtpeft.continual.built import Built
from mtpeft.errors import ConfigError
from mtpeft.report.page import render

ONE = {**make_recipe()["stream"], "num_tasks": 1}


def test_results_and_report_say_what_was_shown(tmp_path: Path) -> None:
    published = {
        "Someone's <method>": {"source": "Someone 2022, table 1", "values": {"average_accuracy": 81.25, "task0": 70}},
        "Another": {"source": "2023", "values": {"task0": 71.5}},
    }
    recipe = make_recipe(
        stream={**ONE, "train_per_class": 2, "test_per_class": 2},
        input={"mean": [0, 0, 0], "std": [1, 1, 1], "crop_pct": 0.875},
        augment={"scale": [0.5, 1.0], "flip": True},
        published=published,
    )
    experiment, results = train(recipe, tmp_path / "run")
    assert results is not None
    shown = results["input"]
    assert shown["mean"] == [0, 0, 0] and shown["std"] == [1, 1, 1]
    assert shown["images"]["train"].startswith("a random crop of 50 to 100 % of the area")
    assert shown["images"]["test"].startswith("shorter side resized to 36 (") and "decoder" not in shown["images"]
    assert experiment.stream[0].test.batch([0])[0].max() <= 1
    page = render([results])
    card = page[page.index("Beside published values") :]
    assert "Someone&#x27;s &lt;method&gt;" in card and "81.25" in card and "71.50" in card and "70.00" in card
    assert "a random crop of 50 to 100 %" in page and "Training images" in page
    del results["input"]["images"]  # as earlier versions wrote them
    assert "Beside published" not in render([{**results, "recipe": {**results["recipe"], "published": None}}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"crop_pct": 2}}, "input.crop_pct is 2"),
        ({"input": {"crop_mode": "centre"}}, "input.crop_mode is 'centre'"),
        ({"input": {"mean": [0, 0]}}, "input.mean is"),
        ({"input": {"std": [0, 0, 0]}}, "input.std is"),
        ({"input": {"men": 1}}, "nothing reads the key input.men. Did you mean 'mean'"),
        ({"augment": {"mixup": 0.8}}, "for one task of classes, this stream has 5"),
        ({"augment": {"smoothing": 0.1}, "stream": ONE, "plugins": [{"type": "MASPlugin"}]}, "without plugins"),
        (
            {
                "augment": {"cutmix": 1.0},
                "stream": {**ONE, "type": "class_incremental"},
                "training": {**make_recipe()["training"], "loss": "local_cross_entropy"},
            },
            "with the loss cross_entropy",
        ),
        ({"published": ["x"]}, "published is"),
        ({"published": {"A": {"values": {"task0": 1}}}}, "published.A.source is missing"),
        ({"published": {"A": {"source": "x", "values": {"task9": 1}}}}, "task9 is no measure and no task"),
        ({"published": {"A": {"source": "x", "values": {"average_accurac": 1}}}}, "Did you mean 'average_accuracy'"),
        ({"published": {"A": {"source": "x", "values": {"task0": "high"}}}}, "task0 is 'high'"),
        ({"published": {"A": {"source": "x", "values": {}}}}, "values is empty"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Built(make_recipe(**changes))
    assert "\n" not in str(caught.value)
