"""A run on a stream with a long tail: its measures against its own confusion matrix, and what the page shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_recipe import make_recipe
from small_runs import train

from mtpeft.report.continual import render_continual

SHARES = {"many_shot_accuracy": (101, 10**9), "medium_shot_accuracy": (20, 100), "few_shot_accuracy": (0, 19)}


def test_measures_and_page_of_a_long_tailed_run(tmp_path: Path) -> None:
    stream = {"type": "class_incremental", "data": {"type": "Digits"}, "base_classes": 4, "classes_per_task": 3}
    stream |= {"imbalance_factor": 12, "train_per_class": 120, "order_seed": 1}
    once = {**make_recipe()["training"], "epochs": 1}
    _, results = train(make_recipe(stream=stream, training=once), tmp_path / "run")
    assert results is not None
    measures = {measure["name"]: measure for measure in results["measures"]}
    trained = [int(120 * (1 / 12) ** (c / 9)) for c in range(10)]
    assert [task["train_samples"] for task in results["tasks"]] == [
        sum(trained[c] for c in task["classes"]) for task in results["tasks"]
    ]
    for name, (least, most) in SHARES.items():
        right = tested = 0
        for entry in results["confusion"]:
            for row, counts in zip(entry["rows"], entry["counts"], strict=True):
                if least <= trained[int(entry["classes"][row])] <= most:
                    right, tested = right + counts[row], tested + sum(counts)
        assert tested and measures[name]["value"] == pytest.approx(100 * right / tested, abs=1e-9), name
    values, samples = results["matrix"]["values"], results["matrix"]["samples"]
    seen = [
        sum(values[k][j] * samples[k][j] for j in range(k + 1)) / sum(samples[k][: k + 1]) for k in range(len(values))
    ]
    assert measures["seen_accuracy_curve"]["value"] == pytest.approx(seen, abs=1e-9)
    assert measures["sample_weighted_incremental_accuracy"]["value"] == pytest.approx(sum(seen) / 3, abs=1e-9)
    page = render_continual([results])
    for text in (
        "Accuracy over seen classes",
        "All classes seen so far",
        "Classes of earlier tasks",
        "Few-shot classes",
    ):
        assert text in page


def test_a_page_of_other_streams_has_no_seen_classes(tmp_path: Path) -> None:
    once = {**make_recipe()["training"], "epochs": 1}
    _, results = train(make_recipe(training=once), tmp_path / "run")
    assert results is not None and "few_shot_accuracy" not in {measure["name"] for measure in results["measures"]}
    assert "Accuracy over seen classes" not in render_continual([results])
