"""Streams whose tasks come from data sets of their own: images, then clips, in any order.

Task-incremental, with a head for each, or class-incremental, behind one growing head: then classes of one name in several
tasks are kept apart by the tasks' names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtpeft.data.labelled import Labelled, build_labelled_parts, check_apart
from mtpeft.data.splits import common_classes, sample
from mtpeft.data.streams import Stream, StreamTask
from mtpeft.data.video.clips import is_video
from mtpeft.errors import ConfigError, DataError, UnknownNameError
from mtpeft.options import Section

KINDS = ("task_incremental", "class_incremental")
COMMON = ("data", "head", "train_per_class", "test_per_class", "subset_seed")


@dataclass(frozen=True)
class _Chosen:
    """What a task takes of its data: {label in training: label in test} in the order of the classes, and its options."""

    name: str
    train: Labelled
    test: Labelled
    kept: Mapping[int, int]
    options: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """Of its classes, as its data set has them."""
        return [self.train.classes[label] for label in self.kept]


def build_task_list(
    config: Mapping[str, Any], data_config: Mapping[str, Any], augment: Any = None, recipe: str = "stream"
) -> Stream:
    """The stream of `dict(type="task_incremental", tasks=dict(digits=dict(data=dict(type="Digits")), motion=...))`.

    Keys of a task: `data`, `head`, `train_per_class`, `test_per_class`, `subset_seed`, as those of one data set's stream
    (see `task_incremental`) and, where a task has none, those of the stream (where its `data` has no type, the stream's
    with these keys); and `classes`, the names of the classes to keep, in this order, by default all. Labels are 0..k-1 in
    each task, or with the type "class_incremental" run through all tasks. `augment` changes the image tasks. `recipe` is
    named in errors.
    """
    top = Section(config, recipe, "stream.")
    kind = top.take("type", KINDS[0])
    if kind not in KINDS:
        raise ConfigError(
            f"recipe {recipe}: stream.tasks is for a stream of type {' or '.join(KINDS)}, this one is {config['type']!r}"
        )
    sections, common = top.take("tasks"), {key: top.take(key, None) for key in COMMON}
    top.finish()
    if not isinstance(sections, Mapping) or not sections:
        raise ConfigError(f"recipe {recipe}: stream.tasks must be a mapping {{name: dict(data=...)}}, got {sections!r}")
    opened = _Sources(data_config, augment)
    chosen = [_chosen(str(name), own, common, opened, recipe) for name, own in sections.items()]
    if augment is not None and opened.videos_only:
        raise ConfigError(f"recipe {recipe}: augment changes images, but all tasks are clips; use data.augment")
    return _stream(kind, chosen, dict(config))


def _chosen(name: str, own: Any, common: Mapping[str, Any], opened: _Sources, recipe: str) -> _Chosen:
    where = f"stream.tasks.{name}"
    if not isinstance(own, Mapping):
        raise ConfigError(f"recipe {recipe}: {where} must be a mapping (dict(...)), got {own!r}")
    section = Section(own, recipe, f"{where}.")
    options = {key: section.take(key, value) for key, value in common.items()}
    wanted = section.take("classes", None)
    section.finish()
    data = options["data"]
    if isinstance(data, Mapping) and "type" not in data and isinstance(common["data"], Mapping):
        data = {**common["data"], **data}
    if data is None:
        raise ConfigError(f"recipe {recipe}: give {where}.data, or stream.data for all tasks, as dict(type=...)")
    train, test = opened.get(data)
    in_test = common_classes(train, test)
    kept = _kept(train, tuple(in_test), wanted, f"recipe {recipe}, {where}.classes")
    return _Chosen(name, train, test, {label: in_test[label] for label in kept}, options)


def _stream(kind: str, chosen: Sequence[_Chosen], settings: Mapping[str, Any]) -> Stream:
    """Classes are numbered through all tasks; of a class-incremental stream these numbers are the labels."""
    names = [name for task in chosen for name in task.names]
    if kind == "class_incremental":
        _check_classes(chosen)
        often = Counter(names)
        names = [f"{task.name}/{name}" if often[name] > 1 else name for task in chosen for name in task.names]
    tasks: list[StreamTask] = []
    first = 0
    for task in chosen:
        numbers = range(first, first + len(task.kept))
        labels = numbers if kind == "class_incremental" else range(len(numbers))
        tasks.append(_task(task, numbers, labels, names if kind == "class_incremental" else None))
        first += len(numbers)
    if kind == "class_incremental":  # tasks that are told apart may give one image several labels
        check_apart([(task.name, task.train, task.test) for task in tasks])
    return Stream(kind, tuple(tasks), tuple(range(len(names))), tuple(names), settings)


def _check_classes(chosen: Sequence[_Chosen]) -> None:
    """Raise `DataError` for a class of one data set in two tasks."""
    owner: dict[tuple[int, int], str] = {}
    for task in chosen:
        for label in task.kept:
            known = owner.setdefault((id(task.train), label), task.name)
            if known != task.name:
                raise DataError(
                    f"class {task.train.classes[label]!r} of {task.train.name} is in tasks {known!r} and {task.name!r}: "
                    "name the classes of each in `classes`"
                )


class _Sources:
    """Opens a data set once, whatever the number of tasks that use it."""

    def __init__(self, data_config: Mapping[str, Any], augment: Any) -> None:
        self.data_config, self.augment = data_config, augment
        self.videos_only = True
        self._opened: list[tuple[Any, tuple[Labelled, Labelled]]] = []

    def get(self, data: Any) -> tuple[Labelled, Labelled]:
        """Training and test part."""
        for known, parts in self._opened:
            if known == data:
                return parts
        augment = None if is_video(data) else self.augment
        self.videos_only &= is_video(data)
        parts = build_labelled_parts(data, self.data_config, augment)
        self._opened.append((data, parts))
        return parts


def _kept(source: Labelled, labels: tuple[int, ...], wanted: Any, where: str) -> tuple[int, ...]:
    """The labels of the classes named `wanted`, in that order; all of `labels` for None."""
    if wanted is None:
        return labels
    names = {source.classes[label]: label for label in labels}
    if not isinstance(wanted, (list, tuple)) or not wanted or len(set(map(str, wanted))) != len(wanted):
        raise ConfigError(f"{where} must list names of classes, each once, got {wanted!r}")
    for name in wanted:
        if str(name) not in names:
            raise UnknownNameError("class", name, names, where)
    return tuple(names[str(name)] for name in wanted)


def _task(chosen: _Chosen, numbers: range, labels: range, names: Sequence[str] | None) -> StreamTask:
    """The task whose classes have these numbers in the stream, and labels in the data."""
    options, kept = chosen.options, chosen.kept
    seed = options["subset_seed"] or 0
    parts = [
        part.subset(
            sample(part, own, options[key], seed),
            dict(zip(own, labels, strict=True)),
            f"{part.name}, {chosen.name}",
            names,
        )
        for part, own, key in (
            (chosen.train, list(kept), "train_per_class"),
            (chosen.test, list(kept.values()), "test_per_class"),
        )
    ]
    head = options["head"]
    return StreamTask(chosen.name, tuple(numbers), dict(zip(numbers, labels, strict=True)), parts[0], parts[1], head)
