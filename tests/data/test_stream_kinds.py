"""Streams as published class-incremental benchmarks have them: a base task, a long tail, few shots; exact counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from mtpeft.data.images import TensorImages
from mtpeft.data.splits import class_order, long_tail, task_sizes
from mtpeft.data.streams import Stream, build_stream, class_incremental
from mtpeft.errors import ConfigError, DataError

CONFIG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def images(classes: int, each: int, name: str) -> TensorImages:
    """`each` images of every class, one pixel in size; their number, modulo 251, is the pixel."""
    data = (torch.arange(classes * each) % 251).to(torch.uint8).reshape(-1, 1, 1, 1)
    targets = [label for label in range(classes) for _ in range(each)]
    return TensorImages(name, data, targets, [f"class {label}" for label in range(classes)])


TRAIN, TEST = images(100, 500, "hundred train"), images(100, 10, "hundred test")


def counts(stream: Stream) -> dict[int, int]:
    """Training images by the label of the source."""
    found: dict[int, int] = {}
    for task in stream:
        own = Counter(task.train.targets)
        found |= {label: own[task.label_map[label]] for label in task.classes}
    return found


def test_a_base_task_and_what_is_left() -> None:
    assert task_sizes(100, None, 10, 50) == [50, 10, 10, 10, 10, 10]
    assert task_sizes(100, None, 5, 60) == [60] + [5] * 8
    assert task_sizes(200, None, 20, 0) == [20] * 10
    assert task_sizes(100, None, 30, 0) == [30, 30, 30, 10]
    assert task_sizes(100, None, 9, 80) == [80, 9, 9, 2]
    assert task_sizes(10, None, 20, 4) == [4, 6]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"base_classes": 50, "num_tasks": 5}, ConfigError, "base_classes needs classes_per_task as a number"),
        ({"base_classes": 50, "classes_per_task": [50, 50]}, ConfigError, "base_classes needs classes_per_task"),
        ({"base_classes": 50, "classes_per_task": 0}, ConfigError, "base_classes needs classes_per_task"),
        (
            {"base_classes": 100, "classes_per_task": 10},
            DataError,
            "base_classes=100: expected a whole number from 0 to 99",
        ),
        ({"base_classes": True, "classes_per_task": 10}, DataError, "base_classes=True"),
        ({"imbalance_factor": 1, "num_tasks": 5}, ConfigError, "imbalance_factor must be a number above 1"),
        ({"imbalance_factor": "100", "num_tasks": 5}, ConfigError, "imbalance_factor must be a number above 1"),
        ({"imbalance_factor": 100, "num_tasks": 5, "shots": 5}, ConfigError, "not both"),
        ({"imbalance_factor": 501, "num_tasks": 5}, DataError, "none is left of the last one"),
        ({"imbalance_factor": 9, "num_tasks": 5, "train_per_class": "9"}, ConfigError, "expected a whole number"),
        ({"imbalance_factor": 9, "num_tasks": 5, "train_per_class": 501}, DataError, "501 of class 0 asked for"),
        ({"num_tasks": 5, "train_per_class": {0: 3}}, ConfigError, "expected a whole number"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        class_incremental(TRAIN, TEST, **options)


def test_long_tail_has_the_published_counts() -> None:
    """CIFAR-100 with imbalance factor 100: 500 down to 5 images a class, 10,847 in all."""
    tail = long_tail(500, range(100), 100)
    assert sum(tail.values()) == 10_847 and (tail[0], tail[99]) == (500, 5)
    assert list(tail.values()) == sorted(tail.values(), reverse=True)
    with pytest.raises(DataError, match="needs two classes"):
        long_tail(500, [3], 100)


@pytest.mark.parametrize("order", [{}, {"order_seed": 1993, "order_rng": "numpy"}])
def test_ordered_and_shuffled_long_tails_have_the_same_images(order: dict[str, Any]) -> None:
    stream = class_incremental(TRAIN, TEST, base_classes=50, classes_per_task=10, imbalance_factor=100, **order)
    expected = (68, 56, 78, 8, 23, 84, 90) if order else tuple(range(7))
    assert stream.class_order[:7] == expected and [len(task.classes) for task in stream] == [50] + [10] * 5
    assert counts(stream) == long_tail(500, range(100), 100) and sum(len(task.train) for task in stream) == 10_847
    assert all(len(task.test) == 10 * len(task.classes) for task in stream)  # balanced
    assert stream.settings["imbalance_factor"] == 100 and stream.settings["base_classes"] == 50
    if not order:
        sizes = [len(task.train) for task in stream]
        assert sizes == sorted(sizes, reverse=True)


def test_a_tail_is_cut_from_the_images_a_balanced_stream_has() -> None:
    whole = class_incremental(TRAIN, TEST, num_tasks=2, train_per_class=40, subset_seed=7)
    tail = class_incremental(TRAIN, TEST, num_tasks=2, train_per_class=40, subset_seed=7, imbalance_factor=10)
    again = class_incremental(TRAIN, TEST, num_tasks=2, train_per_class=40, subset_seed=7, imbalance_factor=10)
    assert counts(tail) == long_tail(40, range(100), 10) == counts(again)
    for part, few, same in zip(whole, tail, again, strict=True):
        all_of_it, some = (
            {
                (label, int(value))
                for label, value in zip(data.targets, data.raw_batch(range(len(data))).flatten(), strict=True)
            }
            for data in (part.train, few.train)
        )
        assert some < all_of_it
        assert torch.equal(few.train.raw_batch(range(len(few.train))), same.train.raw_batch(range(len(same.train))))


def test_few_shots_after_a_base_session() -> None:
    """60 classes, then 8 sessions of 5 classes with 5 images each."""
    stream = class_incremental(TRAIN, TEST, base_classes=60, classes_per_task=5, shots=5)
    assert [len(task.train) for task in stream] == [30_000] + [25] * 8
    assert [len(task.test) for task in stream] == [600] + [50] * 8


def test_from_a_recipe() -> None:
    section = {"type": "class_incremental", "data": {"type": "Digits"}, "base_classes": 4, "classes_per_task": 4}
    stream = build_stream({**section, "imbalance_factor": 8, "train_per_class": 80}, CONFIG)
    assert [len(task.classes) for task in stream] == [4, 4, 2] and stream.class_order == class_order(
        tuple(range(10)), None, None
    )
    assert counts(stream) == {c: int(80 * (1 / 8) ** (c / 9)) for c in range(10)}
    with pytest.raises(ConfigError, match=r"takes no key 'imbalance'.*imbalance_factor"):
        build_stream({**section, "imbalance": 8}, CONFIG)
