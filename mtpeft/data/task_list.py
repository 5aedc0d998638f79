"""Task-incremental streams whose tasks come from data sets of their own: images, then clips, in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtpeft.data.labelled import Labelled, build_labelled_parts
from mtpeft.data.splits import common_classes, sample
from mtpeft.data.streams import Stream, StreamTask
from mtpeft.data.video.clips import is_video
from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.options import Section

KIND = "task_incremental"
COMMON = ("data", "head", "train_per_class", "test_per_class", "subset_seed")


def build_task_list(
    config: Mapping[str, Any], data_config: Mapping[str, Any], augment: Any = None, recipe: str = "stream"
) -> Stream:
    """The stream of `dict(type="task_incremental", tasks=dict(digits=dict(data=dict(type="Digits")), motion=...))`.

    Keys of a task: `data`, `head`, `train_per_class`, `test_per_class`, `subset_seed`, as those of one data set's stream
    (see `task_incremental`) and, where a task has none, those of the stream; and `classes`, the names of the classes to
    keep, in this order, by default all. Labels are 0..k-1 in each task. `augment` changes the image tasks. `recipe` is
    named in errors.
    """
    top = Section(config, recipe, "stream.")
    if top.take("type", KIND) != KIND:
        raise ConfigError(f"recipe {recipe}: stream.tasks is for a {KIND} stream, this one is {config['type']!r}")
    sections, common = top.take("tasks"), {key: top.take(key, None) for key in COMMON}
    top.finish()
    if not isinstance(sections, Mapping) or not sections:
        raise ConfigError(f"recipe {recipe}: stream.tasks must be a mapping {{name: dict(data=...)}}, got {sections!r}")
    opened = _Sources(data_config, augment)
    tasks: list[StreamTask] = []
    names: list[str] = []
    for name, own in sections.items():
        where = f"stream.tasks.{name}"
        if not isinstance(own, Mapping):
            raise ConfigError(f"recipe {recipe}: {where} must be a mapping (dict(...)), got {own!r}")
        section = Section(own, recipe, f"{where}.")
        options = {key: section.take(key, value) for key, value in common.items()}
        wanted = section.take("classes", None)
        section.finish()
        if options["data"] is None:
            raise ConfigError(f"recipe {recipe}: give {where}.data, or stream.data for all tasks, as dict(type=...)")
        train, test = opened.get(options["data"])
        in_test = common_classes(train, test)
        kept = _kept(train, tuple(in_test), wanted, f"recipe {recipe}, {where}.classes")
        tasks.append(_task(name, len(names), train, test, {label: in_test[label] for label in kept}, options))
        names += [train.classes[label] for label in kept]
    if augment is not None and opened.videos_only:
        raise ConfigError(f"recipe {recipe}: augment changes images, but all tasks are clips; use data.augment")
    return Stream(KIND, tuple(tasks), tuple(range(len(names))), tuple(names), dict(config))


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


def _task(
    name: str, first: int, train: Labelled, test: Labelled, kept: Mapping[int, int], options: Mapping[str, Any]
) -> StreamTask:
    """A task whose classes are numbered from `first` on; `kept` are their labels in training, and those in test."""
    seed = options["subset_seed"] or 0
    parts = [
        part.subset(
            sample(part, labels, options[key], seed),
            {label: place for place, label in enumerate(labels)},
            f"{part.name}, {name}",
        )
        for part, labels, key in (
            (train, list(kept), "train_per_class"),
            (test, list(kept.values()), "test_per_class"),
        )
    ]
    numbers = range(first, first + len(kept))
    return StreamTask(
        name, tuple(numbers), {number: number - first for number in numbers}, parts[0], parts[1], options["head"]
    )
