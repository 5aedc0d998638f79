"""Dense tasks one after another: segmentation, then depth, then normals, ... The task is known at test time.

One experience is one label of a data set, with the kind that gives its loss and its measure, and the head it gets.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mtpeft.data.dense.batch import DenseView, collate
from mtpeft.data.dense.parts import build_parts
from mtpeft.data.dense.sample import DenseDataset
from mtpeft.data.dense.transforms import build_transforms
from mtpeft.dense.kinds import KINDS, Kind
from mtpeft.errors import ConfigError, DataError, UnknownNameError
from mtpeft.options import NotNegative, Section

DENSE = "dense_incremental"


class LabelBatch:
    """Items [DenseView item, ...] to [images (B, 3, H, W), labels (B, ...), the rest collated as torch does].

    An image without the label gets one without a valid pixel, so that every batch holds all its images.
    """

    def __init__(self, label: str, kind: str, channels: int) -> None:
        """`kind` is the label's in the data set, `channels` those of a label that has an axis for them."""
        self.label, self.channels = label, channels
        self.layout = KINDS.get(kind, f"task {label!r}").layout

    def __call__(self, items: Sequence[Sequence[Any]]) -> list[Tensor]:
        """Make the batch; raises `DataError` for images of different sizes."""
        batch = collate([item[0] for item in items])
        images = batch["images"]
        channels = (self.channels,) if self.layout.channels else ()
        shape = (len(images), *channels, *batch["size"])
        labels = torch.full(shape, self.layout.fill, dtype=self.layout.dtype)
        if self.label in batch["labels"]:
            rows, found = batch["labels"][self.label]
            labels[rows] = found
        return [images, labels, *default_collate([tuple(item[1:]) for item in items])]


class LabelView(Dataset[tuple[dict[str, Any]]]):
    """One label of a data set. An item is a tuple of one item of `DenseView`, to which others may be added."""

    def __init__(self, view: DenseView, plain: DenseView, collate_fn: LabelBatch) -> None:
        """`plain` is the same data set as it is evaluated."""
        self.view, self._plain, self.collate_fn = view, plain, collate_fn

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> tuple[dict[str, Any]]:
        return (self.view[index],)

    def at_epoch(self, epoch: int) -> LabelView:
        """The same with the random numbers of an epoch."""
        view = copy.copy(self.view)
        view.set_epoch(epoch)
        return LabelView(view, self._plain, self.collate_fn)

    def plain(self) -> LabelView:
        """The same without augmentation."""
        return LabelView(self._plain, self._plain, self.collate_fn)


@dataclass(frozen=True)
class DenseTask:
    """One experience. `head` is a config for `TaskManager.add_task`; the loss is multiplied by `weight`."""

    name: str
    kind: Kind
    head: Mapping[str, Any]
    weight: float
    train: LabelView
    test: LabelView
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class DenseStream:
    """Dense tasks in the order they are learnt; `settings` is what made the stream, in plain types."""

    tasks: tuple[DenseTask, ...]
    settings: Mapping[str, Any]
    kind: str = DENSE

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[DenseTask]:
        return iter(self.tasks)

    def __getitem__(self, index: int) -> DenseTask:
        return self.tasks[index]

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(task.name for task in self.tasks)

    def describe(self) -> dict[str, Any]:
        """Everything needed to read the results of a run on this stream, in plain types."""
        return {
            "kind": self.kind,
            "settings": dict(self.settings),
            "tasks": [
                {
                    "name": task.name,
                    "kind": task.kind.name,
                    "classes": list(range(len(task.class_names))),
                    "class_names": list(task.class_names),
                    "train_images": len(task.train),
                    "test_images": len(task.test),
                }
                for task in self.tasks
            ],
        }


def build_dense_stream(
    config: Mapping[str, Any], data_config: Mapping[str, Any], seed: int = 0, recipe: str = "stream"
) -> DenseStream:
    """The stream of a recipe: `dict(type="dense_incremental", data=dict(name="scenes"), tasks=["semseg", "depth"])`.

    `tasks` are names of labels, or {name: dict(...)} with the keys `label` (of the data set, by default the name),
    `data`, `kind`, `options` and `metric` of the kind, `head` and `weight`; `data` and `head` of the stream are those
    of tasks without their own. `transforms` are dict(train=[...], val=[...]). `data_config` is the backbone's (timm's
    `resolve_model_data_config`); `recipe` is named in errors. The validation split is the test set.
    """
    top = Section(config, recipe, "stream.")
    top.take("type", DENSE)
    data, head, tasks = top.take("data", None), top.take("head", None), top.take("tasks")
    transforms = top.section("transforms")
    top.finish()
    transforms.known |= {"train", "val"}
    transforms.finish()
    if not isinstance(tasks, (Mapping, list, tuple)) or not tasks:
        raise ConfigError(f"recipe {recipe}: stream.tasks must name at least one task, got {tasks!r}")
    sections = dict(tasks) if isinstance(tasks, Mapping) else {name: {} for name in tasks}
    if len(sections) != len(tasks):
        raise ConfigError(f"recipe {recipe}: a task occurs twice in stream.tasks {list(tasks)}; give it another name")
    builder = _Builder(transforms.values, data_config, seed, recipe)
    built = [builder.task(i, name, own, data, head) for i, (name, own) in enumerate(sections.items())]
    return DenseStream(tuple(built), dict(config))


class _Builder:
    """Makes tasks; a data set that several of them use is opened once."""

    def __init__(self, transforms: Mapping[str, Any], data_config: Mapping[str, Any], seed: int, recipe: str) -> None:
        self.transforms = {split: build_transforms(transforms.get(split, ())) for split in ("train", "val")}
        self.data_config, self.seed, self.recipe = data_config, seed, recipe
        self._opened: list[tuple[dict[str, Any], dict[str, DenseDataset]]] = []

    def task(self, position: int, name: str, own: Any, data: Any, head: Any) -> DenseTask:
        """The task at a position of the stream."""
        where = f"stream.tasks.{name}"
        if not isinstance(own, Mapping):
            raise ConfigError(f"recipe {self.recipe}: {where} must be a mapping (dict(...)), got {own!r}")
        section = Section(own, self.recipe, f"{where}.")
        parts = self._open(section.take("data", None) or data, where)
        label = str(section.take("label", name))
        if label not in parts["train"].tasks:
            raise UnknownNameError("label", label, parts["train"].tasks, f"recipe {self.recipe}, {where}")
        info = parts["train"].tasks[label]
        head, weight = section.take("head", None) or head, section.take("weight", 1.0, NotNegative)
        kind = info.build_kind(section.take("kind", None), section.take("options", None), section.take("metric", None))
        section.finish()
        if not isinstance(head, Mapping) or "name" not in head:
            raise ConfigError(
                f"recipe {self.recipe}: give {where}.head, or stream.head for all tasks, as dict(name=...)"
            )
        seed = self.seed * 1_000_003 + position
        train, plain, test = (
            DenseView(
                parts[part],
                self.transforms[views],
                seed,
                self.data_config["mean"],
                self.data_config["std"],
                [label],
                {label: [kind]},
            )
            for part, views in (("train", "train"), ("train", "val"), ("val", "val"))
        )
        for part, view in (("training", train), ("validation", test)):
            if not len(view):
                raise DataError(f"recipe {self.recipe}, {where}: no {part} image")
            view.read(0)  # a label that is wrong throughout is told of before anything is trained
        batch = LabelBatch(label, info.kind, kind.channels)
        options = {"channels": kind.channels, **head}
        return DenseTask(
            name, kind, options, weight, LabelView(train, plain, batch), LabelView(test, test, batch), info.classes
        )

    def _open(self, data: Any, where: str) -> dict[str, DenseDataset]:
        if not isinstance(data, Mapping) or "name" not in data:
            raise ConfigError(
                f"recipe {self.recipe}: give {where}.data, or stream.data for all tasks, as dict(name=...)"
            )
        config = dict(data)
        for known, parts in self._opened:
            if known == config:
                return parts
        options = {key: value for key, value in config.items() if key != "name"}
        parts = build_parts(str(config["name"]), options)
        self._opened.append((config, parts))
        return parts
