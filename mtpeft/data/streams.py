"""Streams of tasks: class-, task- and domain-incremental (van de Ven and Tolias 2019, arXiv 1904.07734).

- class-incremental: new classes in each task, one output space, the task unknown at test time. Labels are places in the
  class order, so that a growing head gets its new classes at the end.
- task-incremental: the same split, the task known at test time. Labels are 0..k-1 within each task.
- domain-incremental: the same classes in each task, seen under another condition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mtpeft.data.corruptions import build_corruption
from mtpeft.data.images import Images, as_images, build_images
from mtpeft.data.transforms import Augment
from mtpeft.errors import ConfigError, DataError, UnknownNameError, nearest


@dataclass(frozen=True)
class StreamTask:
    """One experience. `label_map` sends a label of the source to the label that `train` and `test` give.

    `classes` are the source's labels, in the order of the new labels.
    """

    name: str
    classes: tuple[int, ...]
    label_map: Mapping[int, int]
    train: Images
    test: Images

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels that occur in this task's data sets."""
        return tuple(self.label_map[label] for label in self.classes)


@dataclass(frozen=True)
class Stream:
    """Tasks in the order they are learnt.

    `kind` is class_incremental, task_incremental or domain_incremental; `class_order` the source's labels in the order
    they appear; `class_names` their names in the same order; `settings` what made the stream, in plain types.
    Raises `DataError` for no task, an empty data set, a name used twice, or classes shared by two tasks where they
    must be disjoint.
    """

    kind: str
    tasks: tuple[StreamTask, ...]
    class_order: tuple[int, ...]
    class_names: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("stream", self.kind, KINDS)
        if not self.tasks:
            raise DataError(f"{self.kind} stream: no task in it")
        owner: dict[int, str] = {}
        names: set[str] = set()
        for task in self.tasks:
            if task.name in names:
                raise DataError(f"{self.kind} stream: two tasks are named {task.name!r}")
            names.add(task.name)
            for part, images in (("training", task.train), ("test", task.test)):
                if not len(images):
                    raise DataError(f"{self.kind} stream, task {task.name!r}: no {part} image")
            for label in task.classes if self.kind != "domain_incremental" else ():
                if label in owner:
                    raise DataError(f"{self.kind} stream: class {label} is in tasks {owner[label]!r} and {task.name!r}")
                owner[label] = task.name

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[StreamTask]:
        return iter(self.tasks)

    def __getitem__(self, index: int) -> StreamTask:
        return self.tasks[index]

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(task.name for task in self.tasks)

    def describe(self) -> dict[str, Any]:
        """Everything needed to read the results of a run on this stream, in plain types."""
        name = dict(zip(self.class_order, self.class_names, strict=True))
        transform = self.tasks[0].train.transform
        return {
            "kind": self.kind,
            "class_order": list(self.class_order),
            "class_names": list(self.class_names),
            "settings": dict(self.settings),
            "input": None if transform is None else transform.describe(),
            "tasks": [
                {
                    "name": task.name,
                    "classes": list(task.classes),
                    "class_names": [name[label] for label in task.classes],
                    "labels": list(task.labels),
                    "train_images": len(task.train),
                    "test_images": len(task.test),
                }
                for task in self.tasks
            ],
        }


def class_incremental(train: Any, test: Any, **options: Any) -> Stream:
    """Split the classes of one data set into tasks that share one output space. Options as for `task_incremental`."""
    return _split_classes("class_incremental", train, test, **options)


def task_incremental(train: Any, test: Any, **options: Any) -> Stream:
    """Split the classes of one data set into tasks with labels 0..k-1 each.

    Give `num_tasks` or `classes_per_task`, which must divide the number of classes. The classes come in the order
    `order` (a permutation of the source's labels), else shuffled by `order_seed`, else ascending. `train_per_class` and
    `test_per_class` keep that many images of each class, drawn by `subset_seed`. `train` and `test` are `Images`, or
    torchvision-style data sets that give tensors. Raises `DataError`, with the numbers, when any of this cannot be.
    """
    return _split_classes("task_incremental", train, test, **options)


def domain_incremental(
    domains: Sequence[tuple[str, Any, Any]],
    *,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
) -> Stream:
    """One task per (name, train, test): the same classes under several conditions; labels as the source has them.

    `corrupted_domains` makes such a list from one data set. Raises `DataError` when the domains' classes differ.
    """
    if not domains:
        raise DataError("domain_incremental stream: no domain given")
    tasks = []
    classes: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    for position, (name, train_source, test_source) in enumerate(domains):
        train, test = as_images(train_source), as_images(test_source)
        found = _common_classes(train, test)
        if position and (found != classes or train.classes != class_names):
            raise DataError(f"domain {name!r} has classes {list(found)}, but {domains[0][0]!r} has {list(classes)}")
        classes, class_names = found, train.classes
        kept_train = _sample(train, classes, train_per_class, subset_seed)
        kept_test = _sample(test, classes, test_per_class, subset_seed)
        identity = {label: label for label in classes}
        tasks.append(StreamTask(name, classes, identity, train.subset(kept_train), test.subset(kept_test)))
    settings = {"train_per_class": train_per_class, "test_per_class": test_per_class, "subset_seed": subset_seed}
    names = tuple(class_names[label] for label in classes)
    return Stream("domain_incremental", tuple(tasks), classes, names, settings)


def corrupted_domains(
    train: Images, test: Images, domains: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Images, Images]]:
    """One domain per config of `build_corruption`, such as `dict(type="rotation", degrees=30)`; `name` may be added."""
    made = []
    for config in domains:
        arguments = dict(config)
        values = [str(value) for key, value in arguments.items() if key not in ("type", "name")]
        name = arguments.pop("name", None) or "_".join([str(arguments.get("type")), *values]).replace(".", "p")
        corruption = build_corruption(arguments)
        if corruption is None:
            made.append((name, train, test))
        else:
            made.append((name, train.corrupted(corruption), test.corrupted(corruption)))
    return made


def build_stream(
    config: Mapping[str, Any], data_config: Mapping[str, Any], augment: Mapping[str, Any] | Augment | None = None
) -> Stream:
    """The stream of a recipe: `dict(type="task_incremental", data=dict(type="FashionMNIST"), num_tasks=5, ...)`.

    A domain-incremental one has `domains`, a list for `corrupted_domains`, instead of a split. The other keys are the
    options of the function named by `type`. `data_config` is the backbone's (timm's `resolve_model_data_config`).
    """
    options = dict(config)
    kind = options.pop("type", None)
    if kind not in KINDS:
        raise UnknownNameError("stream", kind, (*KINDS, "dense_incremental"), "key stream.type")
    known = _SUBSET_OPTIONS | ({"domains"} if kind == "domain_incremental" else _SPLIT_OPTIONS)
    for key in options:
        if key not in known | {"data"}:
            raise ConfigError(f"stream {kind!r} takes no key {key!r}.{nearest(str(key), known | {'data'})}")
    if "data" not in options:
        raise ConfigError(f"stream {kind!r} needs the key 'data', such as data=dict(type='FashionMNIST')")
    data = options.pop("data")
    train = build_images(data, data_config, train=True, augment=augment)
    test = build_images(data, data_config, train=False)
    if kind != "domain_incremental":
        return _split_classes(kind, train, test, **options)
    return domain_incremental(corrupted_domains(train, test, options.pop("domains", ())), **options)


KINDS = ("class_incremental", "task_incremental", "domain_incremental")
#: streams whose tasks are known at test time, so that each can have a head and weights of its own
TASK_KNOWN = ("task_incremental", "dense_incremental")
_SUBSET_OPTIONS = {"train_per_class", "test_per_class", "subset_seed"}
_SPLIT_OPTIONS = {"num_tasks", "classes_per_task", "order", "order_seed"}


def _split_classes(
    kind: str,
    train: Any,
    test: Any,
    *,
    num_tasks: int | None = None,
    classes_per_task: int | None = None,
    order: Sequence[int] | None = None,
    order_seed: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
) -> Stream:
    train, test = as_images(train), as_images(test)
    classes = _class_order(_common_classes(train, test), order, order_seed)
    size = _task_size(len(classes), num_tasks, classes_per_task)
    place = {label: position for position, label in enumerate(classes)}
    tasks = []
    for index in range(len(classes) // size):
        members = classes[index * size : (index + 1) * size]
        mapping = place if kind == "class_incremental" else {label: i for i, label in enumerate(members)}
        kept_train = _sample(train, members, train_per_class, subset_seed)
        kept_test = _sample(test, members, test_per_class, subset_seed)
        name = f"task{index}"
        tasks.append(
            StreamTask(
                name,
                members,
                {label: mapping[label] for label in members},
                train.subset(kept_train, mapping, f"{train.name}, {name}"),
                test.subset(kept_test, mapping, f"{test.name}, {name}"),
            )
        )
    settings = {
        "order_seed": order_seed,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "subset_seed": subset_seed,
    }
    return Stream(kind, tuple(tasks), classes, tuple(train.classes[label] for label in classes), settings)


def _common_classes(train: Images, test: Images) -> tuple[int, ...]:
    """The labels that occur, ascending; training and test must have the same."""
    ours, theirs = set(train.targets), set(test.targets)
    if ours != theirs:
        raise DataError(
            f"{train.name} and {test.name} differ in their classes: {sorted(ours - theirs)} only in training, "
            f"{sorted(theirs - ours)} only in test"
        )
    return tuple(sorted(ours))


def _class_order(classes: tuple[int, ...], order: Sequence[int] | None, seed: int | None) -> tuple[int, ...]:
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
    shuffled = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    return tuple(classes[position] for position in shuffled.tolist())


def _task_size(classes: int, num_tasks: int | None, classes_per_task: int | None) -> int:
    if (num_tasks is None) == (classes_per_task is None):
        raise ConfigError("give exactly one of num_tasks and classes_per_task")
    option, value = ("num_tasks", num_tasks) if num_tasks is not None else ("classes_per_task", classes_per_task)
    if not value or value < 1 or classes % value:
        raise DataError(f"{classes} classes cannot be split evenly with {option}={value}; use a divisor of {classes}")
    return classes // value if option == "num_tasks" else value


def _sample(images: Images, classes: Sequence[int], per_class: int | None, seed: int) -> list[int]:
    """Ascending indices of all images of `classes`, or of `per_class` of each, whatever the task they are in."""
    labels = torch.tensor(images.targets)
    if per_class is None:
        return torch.isin(labels, torch.tensor(classes)).nonzero()[:, 0].tolist()
    kept: list[int] = []
    for label in classes:
        members = (labels == label).nonzero()[:, 0]
        if not 1 <= per_class <= len(members):
            raise DataError(f"{images.name}: {per_class} images of class {label} asked for, it has {len(members)}")
        shuffled = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))
        kept += members[shuffled[:per_class]].tolist()
    return sorted(kept)
