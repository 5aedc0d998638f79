"""Frozen baselines on the digits: far above chance, exact by hand on toy features, one pass over the images."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from mtpeft.data.streams import Stream, build_stream
from mtpeft.errors import DataError
from mtpeft.evaluation.baselines import (
    StreamFeatures,
    TaskFeatures,
    extract_features,
    fit_logits,
    frozen_baselines,
    linear_probe,
    nearest_class_mean,
)

CONFIG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def digits(kind: str) -> Stream:
    split = {"domains": [{"type": "none"}, {"type": "contrast", "factor": 0.5}]}
    options = split if kind == "domain_incremental" else {"num_tasks": 5}
    return build_stream({"type": kind, "data": {"type": "Digits"}, **options}, CONFIG, augment={"flip": True})


def projection(images: Tensor) -> Tensor:
    """A fixed random projection of the pixels to 32 features, rectified."""
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    return torch.relu(images[:, 0].flatten(1) @ weight)


@pytest.mark.parametrize(
    ("kind", "chance", "probe", "means"),
    [
        ("task_incremental", 0.5, 0.97, 0.9),
        ("class_incremental", 0.1, 0.88, 0.7),
        ("domain_incremental", 0.1, 0.85, 0.5),
    ],
)
def test_baselines_are_far_above_chance(kind: str, chance: float, probe: float, means: float) -> None:
    stream = digits(kind)
    made = frozen_baselines(stream, projection)
    for name, least in (("linear_probe", probe), ("nearest_class_mean", means)):
        baseline = made[name]
        assert list(baseline.per_task) == list(stream.task_names)
        assert baseline.samples == {task.name: len(task.test) for task in stream}
        assert least < baseline.average <= 1 and least < baseline.joint <= 1
        assert min(baseline.per_task.values()) > 2 * chance * 0.8
        assert json.loads(json.dumps(baseline.describe()))["joint"] == baseline.joint


def test_knowing_the_task_helps() -> None:
    known, unknown = (frozen_baselines(digits(kind), projection) for kind in ("task_incremental", "class_incremental"))
    for name in known:
        assert known[name].average > unknown[name].average


def test_images_pass_once_in_order_without_augmentation_or_gradient() -> None:
    stream = digits("class_incremental")
    seen: list[Tensor] = []

    def features(images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        seen.append(images)
        return images.flatten(1)

    extracted = extract_features(stream, features, batch_size=100)
    linear_probe(extracted, penalties=[1.0], iterations=2)
    nearest_class_mean(extracted)
    total = sum(len(task.train) + len(task.test) for task in stream)
    assert sum(len(images) for images in seen) == total
    first = stream[0].train.plain()
    assert torch.equal(extracted.tasks[0].train, first.batch(range(len(first)))[0].flatten(1))


def test_results_are_the_same_each_time() -> None:
    stream = digits("task_incremental")
    first, second = (frozen_baselines(stream, projection) for _ in range(2))
    assert {n: b.describe() for n, b in first.items()} == {n: b.describe() for n, b in second.items()}


def toy(test: Tensor, labels: list[int]) -> StreamFeatures:
    train = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    train_labels = torch.tensor([4, 7, 4, 7])
    return StreamFeatures("task_incremental", (TaskFeatures("a", train, train_labels, test, torch.tensor(labels)),))


def test_class_means_by_hand() -> None:
    # Means (0, 1) and (2, 1) about the centre (1, 1): the directions are left and right.
    extracted = toy(torch.tensor([[0.9, 9.0], [1.1, -9.0], [5.0, 1.0], [0.5, -1.0]]), [4, 7, 4, 4])
    assert nearest_class_mean(extracted).per_task["a"] == 3 / 4


def test_logistic_regression_by_hand() -> None:
    # One feature, standardised to -1 and +1, two classes: with weights -w and +w the optimality condition is
    # 4 / (1 + exp(2 w)) = l2 * w for the four images, and the logits' difference at x = 1 is 2 w.
    extracted = toy(torch.tensor([[0.99, 0.0], [1.01, 0.0]]), [4, 7])
    assert linear_probe(extracted, penalties=[1.0]).per_task["a"] == 1.0
    low, high = 0.0, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 4 / (1 + math.exp(2 * middle)) > middle else (low, middle)
    task = extracted.tasks[0]
    logits = fit_logits(task.train, (task.train_labels == 7).long(), 1.0, 100)(torch.tensor([[2.0, 1.0]]))
    assert (logits[0, 1] - logits[0, 0]).item() == pytest.approx(2 * low, abs=1e-3)


def test_the_penalty_is_picked_on_held_out_images() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    noise = torch.randn(200, 100, generator=generator)
    train = torch.cat([labels[:, None] * 2.0 - 1 + 0.5 * noise[:, :1], noise[:, 1:]], dim=1)
    task = TaskFeatures("a", train, labels, train, labels)
    probe = linear_probe(StreamFeatures("task_incremental", (task,)))
    assert probe.settings["l2"] == [100.0] and probe.settings["l2_tried"] == [0.1, 1.0, 10.0, 100.0]


def test_wrong_features() -> None:
    stream = digits("task_incremental")
    with pytest.raises(DataError, match=r"features of shape \(256, 3, 8, 8\) for 256 images, expected \(256, d\)"):
        extract_features(stream, lambda images: images)
    with pytest.raises(DataError, match="of images 0 to 255 are not all finite"):
        extract_features(stream, lambda images: images.flatten(1) / 0)
