"""Streams: label maps, orders, subsets, domains, and everything that cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from mtpeft.data.images import Images, TensorImages
from mtpeft.data.streams import (
    Stream,
    StreamTask,
    build_stream,
    class_incremental,
    corrupted_domains,
    domain_incremental,
    task_incremental,
)
from mtpeft.errors import ConfigError, DataError, UnknownNameError

CONFIG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def toy(counts: dict[int, int], name: str = "toy", classes: int = 6) -> TensorImages:
    """Images whose first pixel is 10 x label and whose second is their number, labels interleaved."""
    targets = [label for i in range(max(counts.values())) for label, count in counts.items() if i < count]
    data = torch.zeros(len(targets), 1, 8, 8, dtype=torch.uint8)
    data[:, 0, 0, 0] = torch.tensor(targets, dtype=torch.uint8) * 10
    data[:, 0, 0, 1] = torch.arange(len(targets), dtype=torch.uint8)
    return TensorImages(name, data, targets, [f"class {label}" for label in range(classes)])


def sources(images: Images) -> tuple[list[int], list[int]]:
    """The source's labels and numbers of the images, read from their pixels."""
    pixels = images.raw_batch(range(len(images)))
    return (pixels[:, 0, 0, 0] // 10).tolist(), pixels[:, 0, 0, 1].tolist()


TRAIN = toy({label: 10 + label for label in range(6)}, "toy train")
TEST = toy(dict.fromkeys(range(6), 4), "toy test")


@pytest.mark.parametrize("make", [class_incremental, task_incremental])
def test_every_image_comes_once_with_its_mapped_label(make: Any) -> None:
    order = [4, 0, 5, 2, 1, 3]
    stream = make(TRAIN, TEST, num_tasks=3, order=order)
    assert stream.kind == make.__name__ and len(stream) == 3
    assert [task.classes for task in stream] == [(4, 0), (5, 2), (1, 3)]
    assert stream.class_names == tuple(f"class {label}" for label in order)
    seen: list[int] = []
    for index, task in enumerate(stream):
        start = 2 * index if make is class_incremental else 0
        assert task.labels == (start, start + 1)
        for images in (task.train, task.test):
            original, _ = sources(images)
            assert images.targets == [task.label_map[label] for label in original]
            assert [images.classes[label] for label in images.targets] == [f"class {label}" for label in original]
        seen += sources(task.train)[1]
    assert sorted(seen) == list(range(len(TRAIN)))


def test_order_is_ascending_or_by_seed() -> None:
    assert class_incremental(TRAIN, TEST, classes_per_task=3).class_order == (0, 1, 2, 3, 4, 5)
    orders = {class_incremental(TRAIN, TEST, num_tasks=2, order_seed=seed).class_order for seed in (0, 0, 1, 2)}
    assert len(orders) == 3 and all(sorted(order) == list(range(6)) for order in orders)


def test_subsets_are_balanced_fixed_by_seed_and_independent_of_the_split() -> None:
    def numbers(seed: int, tasks: int, count: int = 5) -> list[set[int]]:
        stream = class_incremental(
            TRAIN, TEST, num_tasks=tasks, train_per_class=count, subset_seed=seed, test_per_class=2
        )
        assert all(task.train.targets.count(label) == count for task in stream for label in task.labels)
        assert all(len(task.test) == 2 * len(task.classes) for task in stream)
        return [set(sources(task.train)[1]) for task in stream]

    assert numbers(0, 3) == numbers(0, 3)
    assert numbers(0, 3) != numbers(1, 3)
    assert set.union(*numbers(0, 3)) == set.union(*numbers(0, 2))
    assert set.union(*numbers(0, 3, count=3)) < set.union(*numbers(0, 3))


@pytest.mark.parametrize("make", [class_incremental, task_incremental])
def test_shots_are_the_items_of_a_class_from_the_second_task_on(make: Any) -> None:
    sizes, few = [3, 2, 1], {"train_per_class": 8, "subset_seed": 4}
    stream, whole = (make(TRAIN, TEST, classes_per_task=sizes, **few, **more) for more in ({"shots": 2}, {}))
    assert [len(task.train) for task in stream] == [24, 4, 2] and [len(task.test) for task in stream] == [12, 8, 4]
    assert sources(stream[0].train) == sources(whole[0].train)
    for task, all_of_it in zip(stream.tasks[1:], whole.tasks[1:], strict=True):
        assert set(sources(task.train)[1]) < set(sources(all_of_it.train)[1])
    assert stream.describe()["settings"]["shots"] == 2 and "shots" not in whole.describe()["settings"]
    assert len(make(TRAIN, TEST, classes_per_task=sizes, shots=10)[0].train) == 33  # all of the first task


def test_shots_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="tasks after the first, and there is one"):
        class_incremental(TRAIN, TEST, num_tasks=1, shots=2)
    with pytest.raises(DataError, match="toy train: 17 of class 5 asked for, it has 15"):
        class_incremental(TRAIN, TEST, classes_per_task=[5, 1], shots=17)
    with pytest.raises(ConfigError, match="'2' of each class asked for"):
        class_incremental(TRAIN, TEST, num_tasks=2, shots="2")
    with pytest.raises(ConfigError, match="takes no key 'shots'"):
        build_stream({"type": "domain_incremental", "shots": 2}, CONFIG)


def test_description_is_plain_and_complete() -> None:
    stream = build_stream(
        {"type": "task_incremental", "data": {"type": "Digits"}, "num_tasks": 5, "order_seed": 3, "train_per_class": 7},
        CONFIG,
        augment={"flip": True},
    )
    described = stream.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["class_order"] == list(stream.class_order) and described["settings"]["order_seed"] == 3
    assert described["input"]["size"] == [8, 8] and described["input"]["augment"]["flip"] is True
    assert described["tasks"][1] == {
        "name": "task1",
        "classes": list(stream.class_order[2:4]),
        "class_names": [str(label) for label in stream.class_order[2:4]],
        "labels": [0, 1],
        "train_images": 14,
        "test_images": len(stream[1].test),
    }


def test_domains_keep_classes_and_differ_in_pixels() -> None:
    configs = [
        {"type": "none", "name": "clean"},
        {"type": "noise", "std": 0.1},
        {"type": "rotation", "degrees": 45, "name": "turned"},
    ]
    stream = domain_incremental(corrupted_domains(TRAIN, TEST, configs), train_per_class=6)
    assert stream.task_names == ("clean", "noise_0p1", "turned")
    assert all(task.classes == (0, 1, 2, 3, 4, 5) == task.labels for task in stream)
    assert stream[0].train.targets == stream[1].train.targets and len(stream[0].train) == 36
    pixels = [task.train.raw_batch(range(36)) for task in stream]
    assert not torch.equal(pixels[0], pixels[1]) and not torch.equal(pixels[1], pixels[2])


def test_domains_from_a_recipe() -> None:
    config = {
        "type": "domain_incremental",
        "data": {"type": "Digits"},
        "domains": [{"type": "none"}, {"type": "contrast", "factor": 0.3}],
        "test_per_class": 5,
    }
    stream = build_stream(config, CONFIG)
    assert stream.task_names == ("none", "contrast_0p3") and len(stream[1].test) == 50


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_tasks": 4}, "6 classes cannot be split evenly with num_tasks=4"),
        ({"classes_per_task": 5}, "6 classes cannot be split evenly with classes_per_task=5"),
        ({"num_tasks": 0}, "num_tasks=0"),
        ({"num_tasks": 2, "order": [0, 1, 2, 3, 4, 4]}, "class 4 is in `order` 2 times"),
        ({"num_tasks": 2, "order": [0, 1, 2, 3, 4, 7]}, r"6 classes once; unknown: \[7\], absent: \[5\]"),
        ({"num_tasks": 2, "train_per_class": 12}, "toy train: 12 of class 0 asked for, it has 10"),
        ({"num_tasks": 2, "test_per_class": 0}, "toy test: 0 of class 0 asked for, it has 4"),
    ],
)
def test_impossible_splits_give_the_numbers(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        class_incremental(TRAIN, TEST, **options)


@pytest.mark.parametrize(
    "options", [{}, {"num_tasks": 2, "classes_per_task": 3}, {"num_tasks": 2, "order": [], "order_seed": 1}]
)
def test_contradicting_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"exactly one|not both"):
        class_incremental(TRAIN, TEST, **options)


def test_a_class_without_test_images() -> None:
    with pytest.raises(DataError, match="toy train and fewer differ in their classes: fewer lacks 'class 5'"):
        class_incremental(TRAIN, toy(dict.fromkeys(range(5), 2), "fewer"), num_tasks=2)


def test_domains_must_share_their_classes() -> None:
    fewer = toy(dict.fromkeys(range(5), 2), "fewer")
    with pytest.raises(DataError, match="differ in their classes: domain 'b' lacks 'class 5'"):
        domain_incremental([("a", TRAIN, TEST), ("b", fewer, fewer)])
    with pytest.raises(DataError, match="no domain given"):
        domain_incremental([])


def test_streams_made_by_hand_are_checked() -> None:
    empty = TRAIN.subset([])
    good = StreamTask("a", (0,), {0: 0}, TRAIN.subset([0]), TEST.subset([0]))
    names = ("class 0",)
    with pytest.raises(DataError, match="task 'b': no test image"):
        Stream("task_incremental", (StreamTask("b", (0,), {0: 0}, TRAIN, empty),), (0,), names)
    with pytest.raises(DataError, match="class 0 is in tasks 'a' and 'b'"):
        again = StreamTask("b", (0,), {0: 0}, good.train, good.test)
        Stream("class_incremental", (good, again), (0,), names)
    with pytest.raises(DataError, match="two tasks are named 'a'"):
        Stream("domain_incremental", (good, good), (0,), names)
    with pytest.raises(DataError, match="no task in it"):
        Stream("class_incremental", (), (), ())
    with pytest.raises(UnknownNameError, match="Did you mean 'class_incremental'"):
        Stream("class-incremental", (good,), (0,), names)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"type": "task_incrementa"}, UnknownNameError, "Did you mean 'task_incremental'"),
        (
            {"type": "task_incremental", "num_task": 5},
            ConfigError,
            r"takes no key 'num_task'\. Did you mean 'num_tasks'",
        ),
        ({"type": "domain_incremental", "num_tasks": 5}, ConfigError, "takes no key 'num_tasks'"),
        ({"type": "task_incremental", "num_tasks": 5}, ConfigError, "needs the key 'data'"),
    ],
)
def test_wrong_recipes(config: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build_stream(config, CONFIG)
