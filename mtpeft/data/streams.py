"""Streams of tasks: class-, task- and domain-incremental (van de Ven and Tolias 2019, arXiv 1904.07734).

- class-incremental: new classes in each task, one output space, the task unknown at test time. Labels are places in the
  class order, so that a growing head gets its new classes at the end.
- task-incremental: the same split, the task known at test time. Labels are 0..k-1 within each task.
- domain-incremental: the same classes in each task, seen under another condition. Labels are 0..k-1.

Classes of the training and the test part, and of domains, are matched by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtpeft.data.classes import same_classes
from mtpeft.data.domains import corrupted_domains, own_domains
from mtpeft.data.images import Images
from mtpeft.data.labelled import Labelled, as_labelled, build_labelled_parts
from mtpeft.data.splits import (
    class_order,
    classes_of,
    common_classes,
    long_tail,
    sample,
    sample_counts,
    task_sizes,
)
from mtpeft.data.transforms import Augment
from mtpeft.errors import ConfigError, DataError, UnknownNameError, nearest


@dataclass(frozen=True)
class StreamTask:
    """One experience. `label_map` sends a label of the source to the label that `train` and `test` give.

    `classes` are the source's labels, in the order of the new labels (of several sources: numbers that run through all
    tasks). `head` is a config for `TaskManager.add_task`, by default a linear one (class-incremental: a growing one, the same
    for all tasks). `validation` are items held out of the training data (see `mtpeft.data.validation`).
    """

    name: str
    classes: tuple[int, ...]
    label_map: Mapping[int, int]
    train: Labelled
    test: Labelled
    head: Mapping[str, Any] | None = None
    validation: Labelled | None = None

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
    must be disjoint, `ConfigError` for a head of a task whose head is shared.
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
            if task.head is not None and self.kind == "domain_incremental":
                raise ConfigError(f"{self.kind} stream: the tasks share one linear head; leave out stream.head")
            if task.head is not None:
                _check_head(task.name, task.head, self.kind)
            if self.kind == "class_incremental" and task.head != self.tasks[0].head:
                raise ConfigError(
                    f"{self.kind} stream: the tasks share one growing head, but task {task.name!r} asks for another"
                )
            for part, data in (("training", task.train), ("test", task.test)):
                if not len(data):
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
        return {
            "kind": self.kind,
            "class_order": list(self.class_order),
            "class_names": list(self.class_names),
            "settings": dict(self.settings),
            "input": self.tasks[0].train.describe(),
            "tasks": [
                {
                    "name": task.name,
                    "classes": list(task.classes),
                    "class_names": [name[label] for label in task.classes],
                    "labels": list(task.labels),
                    "train_images": len(task.train),
                    "test_images": len(task.test),
                    **({} if task.validation is None else {"validation_images": len(task.validation)}),
                }
                for task in self.tasks
            ],
        }


def class_incremental(train: Any, test: Any, **options: Any) -> Stream:
    """Split the classes of one data set into tasks that share one output space. Options as for `task_incremental`.

    `head` is that of all tasks together, `dict(name="growing", ...)`.
    """
    return _split_classes("class_incremental", train, test, **options)


def task_incremental(train: Any, test: Any, **options: Any) -> Stream:
    """Split the classes of one data set into tasks with labels 0..k-1 each.

    Give `num_tasks` or `classes_per_task`: a divisor of the number of classes, or the number of classes of each task as a
    list. The classes come in the order `order` (a permutation of the source's labels), else shuffled by `order_seed` and
    `order_rng` (see `class_order`), else ascending. `train_per_class` and `test_per_class` keep that many items of each
    class, drawn by `subset_seed`; `shots` are the training items of each class from the second task on, in the place of
    `train_per_class` (few-shot). `base_classes` come first, then tasks of `classes_per_task`, the last one maybe smaller
    (`task_sizes`). `imbalance_factor` gives the training part a long tail: from one source label to the next a class has
    fewer items, from the smallest class's number (or `train_per_class`) down to that divided by the factor (`long_tail`).
    So ascending classes are learnt from head to tail, shuffled ones with the same counts in another order.
    Every task has the head `head`. `train` and `test` are `Images`, `Clips`, or
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
    """One task per (name, train, test): the same classes under several conditions, matched by name.

    Labels are places among the classes that occur, in the order in which the first domain numbers them.
    `corrupted_domains` makes such a list from one data set. Raises `DataError` that names the classes a domain lacks.
    """
    if not domains:
        raise DataError("domain_incremental stream: no domain given")
    tasks = []
    names: dict[int, str] = {}
    for name, train_source, test_source in domains:
        train, test = as_labelled(train_source), as_labelled(test_source)
        in_test = common_classes(train, test)
        names = names or classes_of(train)
        found = same_classes(names, classes_of(train), f"domain {domains[0][0]!r}", f"domain {name!r}")
        place = {found[label]: position for position, label in enumerate(names)}
        place_in_test = {in_test[label]: position for label, position in place.items()}
        kept_train = sample(train, list(place), train_per_class, subset_seed)
        kept_test = sample(test, list(place_in_test), test_per_class, subset_seed)
        label_map = {label: position for position, label in enumerate(names)}
        parts = train.subset(kept_train, place), test.subset(kept_test, place_in_test)
        tasks.append(StreamTask(name, tuple(names), label_map, *parts))
    settings = {"train_per_class": train_per_class, "test_per_class": test_per_class, "subset_seed": subset_seed}
    return Stream("domain_incremental", tuple(tasks), tuple(names), tuple(names.values()), settings)


def build_stream(
    config: Mapping[str, Any], data_config: Mapping[str, Any], augment: Mapping[str, Any] | Augment | None = None
) -> Stream:
    """The stream of a recipe: `dict(type="task_incremental", data=dict(type="FashionMNIST"), num_tasks=5, ...)`.

    `data.type` is an image data set or one of VIDEO_DATASETS. A domain-incremental stream has `domains` instead of a split:
    {name: keys of its own data}, which change those of `data`, or, of images, a list for `corrupted_domains`. The other keys
    are the options of the function named by `type`. `data_config` is the backbone's (timm's `resolve_model_data_config`).
    """
    options = dict(config)
    kind = options.pop("type", None)
    if kind not in KINDS:
        raise UnknownNameError("stream", kind, (*KINDS, "dense_incremental"), "key stream.type")
    known = _SUBSET_OPTIONS | ({"domains"} if kind == "domain_incremental" else _SPLIT_OPTIONS)
    for key in options:
        if key not in known | {"data"}:
            raise ConfigError(f"stream {kind!r} takes no key {key!r}.{nearest(str(key), known | {'data'})}")
    domains = options.pop("domains", None) if kind == "domain_incremental" else None
    if isinstance(domains, Mapping):
        own = own_domains(domains, options.pop("data", {}), data_config, augment)
        return domain_incremental(own, **options)
    if "data" not in options:
        raise ConfigError(f"stream {kind!r} needs the key 'data', such as data=dict(type='FashionMNIST')")
    data = options.pop("data")
    train, test = build_labelled_parts(data, data_config, augment)
    if kind != "domain_incremental":
        return _split_classes(kind, train, test, **options)
    if not (isinstance(train, Images) and isinstance(test, Images)):
        raise ConfigError(f"a domain_incremental stream has corrupted images for domains; {data['type']!r} gives clips")
    if not isinstance(domains, list | tuple) or not domains:
        raise ConfigError(
            "a domain_incremental stream needs `domains`: {name: keys of its data}, or a list of corruptions, such as "
            "[dict(type='rotation', degrees=30)]"
        )
    return domain_incremental(corrupted_domains(train, test, domains), **options)


def _check_head(task: str, head: Any, kind: str) -> None:
    if not isinstance(head, Mapping) or "name" not in head:
        raise ConfigError(f"task {task!r}: head must be dict(name=..., ...), got {head!r}")
    if kind == "class_incremental" and head["name"] != "growing":
        raise ConfigError(
            f"{kind} stream: the tasks share one linear head; leave out stream.head, or give dict(name='growing', ...)"
        )
    if kind != "class_incremental" and head["name"] == "growing":
        raise ConfigError(
            f"task {task!r}: a growing head is for class_incremental streams, which have it by themselves"
        )
    if "num_classes" in head:
        raise ConfigError(f"task {task!r}: leave out head.num_classes, the task's classes give it")


KINDS = ("class_incremental", "task_incremental", "domain_incremental")
#: streams whose tasks are known at test time, so that each can have a head and weights of its own
TASK_KNOWN = ("task_incremental", "dense_incremental")
_SUBSET_OPTIONS = {"train_per_class", "test_per_class", "subset_seed"}
_SPLIT_OPTIONS = {"num_tasks", "classes_per_task", "order", "order_seed", "order_rng", "shots", "head"} | {
    "base_classes",
    "imbalance_factor",
}


def _split_classes(
    kind: str,
    train: Any,
    test: Any,
    *,
    num_tasks: int | None = None,
    classes_per_task: int | Sequence[int] | None = None,
    order: Sequence[int] | None = None,
    order_seed: int | None = None,
    order_rng: str = "torch",
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    shots: int | None = None,
    base_classes: int | None = None,
    imbalance_factor: float | None = None,
    head: Mapping[str, Any] | None = None,
) -> Stream:
    train, test = as_labelled(train), as_labelled(test)
    in_test = common_classes(train, test)
    classes = class_order(tuple(in_test), order, order_seed, order_rng)
    sizes = task_sizes(len(classes), num_tasks, classes_per_task, base_classes)
    tail = None if imbalance_factor is None else _tail(train, tuple(in_test), train_per_class, imbalance_factor, shots)
    if shots is not None and len(sizes) == 1:
        raise ConfigError("stream.shots is for the tasks after the first, and there is one; leave it out")
    place = {label: position for position, label in enumerate(classes)}
    tasks = []
    for index, size in enumerate(sizes):
        members = classes[sum(sizes[:index]) :][:size]
        mapping = place if kind == "class_incremental" else {label: i for i, label in enumerate(members)}
        per_class = train_per_class if index == 0 or shots is None else shots
        kept_train = (
            sample(train, members, per_class, subset_seed)
            if tail is None
            else sample_counts(train, {label: tail[label] for label in members}, subset_seed)
        )
        kept_test = sample(test, [in_test[label] for label in members], test_per_class, subset_seed)
        name = f"task{index}"
        tasks.append(
            StreamTask(
                name,
                members,
                {label: mapping[label] for label in members},
                train.subset(kept_train, mapping, f"{train.name}, {name}"),
                test.subset(kept_test, {in_test[k]: new for k, new in mapping.items()}, f"{test.name}, {name}"),
                head,
            )
        )
    settings = {
        "order_seed": order_seed,
        **({} if order_rng == "torch" else {"order_rng": order_rng}),
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "subset_seed": subset_seed,
        **({} if shots is None else {"shots": shots}),
        **({} if base_classes is None else {"base_classes": base_classes}),
        **({} if imbalance_factor is None else {"imbalance_factor": imbalance_factor}),
    }
    return Stream(kind, tuple(tasks), classes, tuple(train.classes[label] for label in classes), settings)


def _tail(
    train: Labelled, classes: tuple[int, ...], largest: int | None, factor: float, shots: int | None
) -> dict[int, int]:
    """Training items of each class of a stream with a long tail."""
    if shots is not None:
        raise ConfigError(
            "give stream.imbalance_factor or stream.shots, not both: each says how many items a class has"
        )
    if largest is None:
        found = Counter(train.targets)
        largest = min(found[label] for label in classes)
    elif not isinstance(largest, int):
        raise ConfigError(f"{train.name}: {largest!r} of each class asked for, expected a whole number")
    return long_tail(largest, classes, factor)
