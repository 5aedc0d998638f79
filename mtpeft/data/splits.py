"""Which classes and which of their items a task gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from mtpeft.data.classes import same_classes
from mtpeft.data.labelled import Labelled
from mtpeft.errors import ConfigError, DataError, UnknownNameError

RNGS = ("torch", "numpy")


def common_classes(train: Labelled, test: Labelled) -> dict[int, int]:
    """{label in training: label of the same class in test}, ascending; classes are matched by name.

    They are those that occur, and of data sets whose publisher numbered the classes alike in all parts, all of them.
    Raises `DataError` that names the classes each part lacks.
    """
    return same_classes(classes_of(train), classes_of(test), train.name, test.name)


def classes_of(data: Labelled) -> dict[int, str]:
    """{label: class name}, ascending, of the classes that have an item, or of all where they are `numbered`."""
    labels = range(len(data.classes)) if data.numbered else sorted(set(data.targets))
    return {label: data.classes[label] for label in labels}


def class_order(
    classes: tuple[int, ...], order: Sequence[int] | None, seed: int | None, rng: str = "torch"
) -> tuple[int, ...]:
    """The classes as `order` has them, else shuffled by `seed`, else as they are.

    `rng` is the generator that shuffles: "torch", or "numpy" for the orders of published streams, which are those of
    `numpy.random.seed(seed)` and `numpy.random.permutation`.
    """
    if rng not in RNGS:
        raise UnknownNameError("generator", rng, RNGS, "key stream.order_rng")
    if order is not None and seed is not None:
        raise ConfigError("give order or order_seed, not both")
    if order is not None:
        twice = [label for label, count in Counter(order).items() if count > 1]
        if twice:
            raise DataError(f"class {twice[0]} is in `order` {Counter(order)[twice[0]]} times; tasks must not overlap")
        if set(order) != set(classes):
            wrong, absent = sorted(set(order) - set(classes)), sorted(set(classes) - set(order))
            raise DataError(
                f"`order` must hold each of {len(classes)} classes once; unknown: {wrong}, absent: {absent}"
            )
        return tuple(int(label) for label in order)
    if seed is None:
        return classes
    if rng == "numpy":
        shuffled = np.random.RandomState(seed).permutation(len(classes)).tolist()
    else:
        shuffled = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed)).tolist()
    return tuple(classes[position] for position in shuffled)


def task_sizes(classes: int, num_tasks: int | None, classes_per_task: int | Sequence[int] | None) -> list[int]:
    """How many classes each task has, from exactly one of the two: equal numbers, or those that are listed."""
    if (num_tasks is None) == (classes_per_task is None):
        raise ConfigError("give exactly one of num_tasks and classes_per_task")
    if isinstance(classes_per_task, Sequence):
        sizes = list(classes_per_task)
        if min(sizes, default=0) < 1 or sum(sizes) != classes:
            raise DataError(f"{classes} classes cannot be split with classes_per_task={sizes}: that is {sum(sizes)}")
        return sizes
    option, value = ("num_tasks", num_tasks) if num_tasks is not None else ("classes_per_task", classes_per_task)
    if not isinstance(value, int) or value < 1 or classes % value:
        raise DataError(f"{classes} classes cannot be split evenly with {option}={value}; use a divisor of {classes}")
    count = value if option == "num_tasks" else classes // value
    return [classes // count] * count


def sample(data: Labelled, classes: Sequence[int], per_class: int | None, seed: int) -> list[int]:
    """Ascending indices of all items of `classes`, or of `per_class` of each, whatever the task they are in."""
    labels = torch.tensor(data.targets)
    if per_class is None:
        return torch.isin(labels, torch.tensor(classes)).nonzero()[:, 0].tolist()
    if not isinstance(per_class, int):
        raise ConfigError(f"{data.name}: {per_class!r} of each class asked for, expected a whole number")
    kept: list[int] = []
    for label in classes:
        members = (labels == label).nonzero()[:, 0]
        if not 1 <= per_class <= len(members):
            raise DataError(f"{data.name}: {per_class} of class {label} asked for, it has {len(members)}")
        shuffled = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))
        kept += members[shuffled[:per_class]].tolist()
    return sorted(kept)
