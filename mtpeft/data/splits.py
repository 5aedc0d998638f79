"""Which classes and which of their items a task gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeGuard

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


def task_sizes(
    classes: int,
    num_tasks: int | None,
    classes_per_task: int | Sequence[int] | None,
    base_classes: int | None = None,
) -> list[int]:
    """How many classes each task has, from exactly one of the first two: equal numbers, or those that are listed.

    With `base_classes` that many come first, in a task of their own (none for 0), then `classes_per_task` in each, the last
    task having what is left: Bm-IncN of published class-incremental streams.
    """
    if base_classes is not None:
        return _after_base(classes, num_tasks, classes_per_task, base_classes)
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


def _after_base(classes: int, num_tasks: int | None, step: int | Sequence[int] | None, base: int) -> list[int]:
    if num_tasks is not None or not _whole(step) or step < 1:
        raise ConfigError(f"stream.base_classes needs classes_per_task as a number from 1 on, got {step!r}")
    if not _whole(base) or not 0 <= base < classes:
        raise DataError(
            f"base_classes={base!r}: expected a whole number from 0 to {classes - 1}, below all {classes} classes"
        )
    rest = classes - base
    sizes = [base] * (base > 0) + [step] * (rest // step)
    return sizes + [rest % step] * (rest % step > 0)


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def long_tail(number: int, classes: Sequence[int], factor: float) -> dict[int, int]:
    """{class: items}: from `number` of the first class down to `number` / `factor` of the last, by equal ratios.

    Of class c of C it is int(number · (1 / factor)^(c / (C - 1))) (Liu et al. 2022, Long-Tailed Class Incremental Learning,
    arXiv 2210.00266). Raises `ConfigError` for a factor of 1 or less, `DataError` for less than two classes or where a
    class would have no item.
    """
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor < float("inf"):
        raise ConfigError(
            f"stream.imbalance_factor must be a number above 1, largest class to smallest, got {factor!r}"
        )
    if len(classes) < 2:
        raise DataError(f"stream.imbalance_factor needs two classes or more, there is {len(classes)}")
    ratio = 1 / factor
    counts = {label: int(number * ratio ** (c / (len(classes) - 1.0))) for c, label in enumerate(classes)}
    if not all(counts.values()):
        raise DataError(
            f"imbalance_factor={factor}: of {number} items of the first class, none is left of the last one"
        )
    return counts


def sample(data: Labelled, classes: Sequence[int], per_class: int | None, seed: int) -> list[int]:
    """Ascending indices of all items of `classes`, or of `per_class` of each, whatever the task they are in."""
    if per_class is None:
        return torch.isin(torch.tensor(data.targets), torch.tensor(classes)).nonzero()[:, 0].tolist()
    if not isinstance(per_class, int):
        raise ConfigError(f"{data.name}: {per_class!r} of each class asked for, expected a whole number")
    return sample_counts(data, dict.fromkeys(classes, per_class), seed)


def sample_counts(data: Labelled, counts: Mapping[int, int], seed: int) -> list[int]:
    """Ascending indices of as many items of each class as {class: items} says; fewer are some of more, by the same seed."""
    labels = torch.tensor(data.targets)
    kept: list[int] = []
    for label, count in counts.items():
        members = (labels == label).nonzero()[:, 0]
        if not 1 <= count <= len(members):
            raise DataError(f"{data.name}: {count} of class {label} asked for, it has {len(members)}")
        shuffled = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))
        kept += members[shuffled[:count]].tolist()
    return sorted(kept)
