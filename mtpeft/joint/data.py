"""From the recipe's data sections to batches: which data set serves which task, and the loader of planned steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mtpeft.data.dense import DenseDataset, TaskInfo
from mtpeft.data.dense.batch import DenseView, collate
from mtpeft.data.dense.parts import build_parts
from mtpeft.data.dense.registry import SPLITS
from mtpeft.data.dense.row_view import RowView
from mtpeft.data.dense.sample import Sample, label_source
from mtpeft.data.dense.transforms import build_transforms
from mtpeft.data.feature_cache import FeatureCache
from mtpeft.data.loader import received, sent
from mtpeft.data.row_images import Precision
from mtpeft.data.validation import Validation
from mtpeft.dense.kinds import Kind
from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.joint.sampler import Draw, Plan, TaskSampler

Batch = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a task's labels come from: label `label` of data set `source`."""

    source: int
    label: str


class JointData:
    """The data sets of a run. `train` and `val` hold one view per data set, `places` says which serves which task.

    `held` are the views of what `validation` takes out of the training part, as they are evaluated; empty without it, and
    where they stand in the place of `val`.

    Data sets with the same description are one. Raises `UnknownNameError` for a task whose label its data set lacks.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        tasks: Mapping[str, Mapping[str, Any]],
        transforms: Mapping[str, Sequence[Mapping[str, Any]]],
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        validation: Validation | None = None,
    ) -> None:
        """`data` is the recipe's section; a task may have a `data` section and a `label` name of its own.

        `kind`, `options` and `metric` of a task go to `TaskInfo.build_kind`; `kinds` has what comes of it.
        """
        self.mean, self.std = list(mean), list(std)
        self.places: dict[str, Place] = {}
        self.infos: dict[str, TaskInfo] = {}
        self.kinds: dict[str, Kind] = {}
        configs: list[dict[str, Any]] = []
        for task, section in tasks.items():
            config = dict(section.get("data") or data)
            if config not in configs:
                configs.append(config)
            self.places[task] = Place(configs.index(config), str(section.get("label", task)))
        parts = [_build(config) for config in configs]
        checks: list[dict[str, list[Kind]]] = [{} for _ in configs]
        for task, place in self.places.items():
            infos = parts[place.source]["train"].tasks
            if place.label not in infos:
                where = f"recipe key tasks.{task}, data set {configs[place.source]['name']!r}"
                raise UnknownNameError("label", place.label, infos, where)
            self.infos[task] = infos[place.label]
            own = [tasks[task].get(key) for key in ("kind", "options", "metric")]
            self.kinds[task] = self.infos[task].build_kind(*own)
            checks[place.source].setdefault(place.label, []).append(self.kinds[task])
        shown = {split: build_transforms(transforms.get(split, ())) for split in SPLITS}

        def view(dataset: DenseDataset, split: str, source: int) -> DenseView:
            kinds = checks[source]
            return DenseView(dataset, shown[split], seed, mean, std, tasks=list(kinds), checks=kinds)

        self.train: list[DenseView] = []
        self.plain: list[DenseView] = []  # the training part as it is evaluated
        self.val: list[DenseView] = []
        self.held: list[DenseView] = []
        for source, part in enumerate(parts):
            train = part["train"]
            if validation is not None:
                kept, held = validation.split(len(train), source)
                self.held.append(view(Chosen(train, held), "val", source))
                train = Chosen(train, kept)
            self.train.append(view(train, "train", source))
            self.plain.append(view(train, "val", source))
            self.val.append(view(part["val"], "val", source))
        if validation is not None and validation.instead_of_test:
            self.val, self.held = self.held, []

    @property
    def all_views(self) -> list[DenseView]:
        """Those of every part."""
        return [*self.train, *self.val, *self.held]

    def use_rows(self, cache: FeatureCache, precision: Precision) -> None:
        """Have all views give rows for images; `precision` is that of training."""
        self.train = [RowView(view, cache, precision) for view in self.train]
        self.val = [RowView(view, cache) for view in self.val]
        self.held = [RowView(view, cache) for view in self.held]

    def check_first(self) -> None:
        """Read the first sample of each part, so that a label that is wrong throughout is told of before a step."""
        for view in (*self.train, *self.val):
            if len(view):
                view.read(0)

    @property
    def sizes(self) -> list[int]:
        """Training samples of each data set."""
        return [len(view) for view in self.train]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(C, H, W) of the images of each task."""
        first = {source: (len(self.mean), *view[0]["size"]) for source, view in enumerate(self.train) if len(view)}
        return {task: first[place.source] for task, place in self.places.items()}

    def samples(self, task: str, split: str) -> int:
        """Samples of the task's data set."""
        return len(self.views(split)[self.places[task].source])

    def views(self, split: str) -> list[DenseView]:
        """The views of "train", "val" or "held"."""
        return {"train": self.train, "val": self.val, "held": self.held}[split]

    def tasks_of(self, source: int) -> tuple[str, ...]:
        """The tasks a data set serves."""
        return tuple(task for task, place in self.places.items() if place.source == source)

    def item(self, view: Any, index: int, tasks: Sequence[str]) -> dict[str, Any]:
        """One sample of a view with the labels of `tasks`, under the tasks' names."""
        item = view[index]
        labels = item["labels"]
        own = {t: labels[self.places[t].label] for t in tasks if self.places[t].label in labels}
        return {**item, "labels": own}

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """The planned samples of the training views as one batch."""
        items = []
        for draw in draws:
            view = self.train[draw.source]
            view.set_epoch(draw.epoch)
            items.append(self.item(view, draw.index, draw.tasks))
        return collate(items)

    def batches(self, split: str, source: int, indices: Sequence[int], size: int) -> Iterator[Batch]:
        """Samples of one data set (`source`) with all its tasks' labels, in the given order, as they are in epoch 0."""
        view = self.views(split)[source]
        view.set_epoch(0)
        tasks = self.tasks_of(source)
        for start in range(0, len(indices), size):
            yield {**collate([self.item(view, i, tasks) for i in indices[start : start + size]]), "source": source}

    def plain_batches(self, task: str, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Training images that have the task's label, without augmentation, and those labels."""
        place = self.places[task]
        view = self.plain[place.source]
        for start in range(0, len(view), size):
            items = [self.item(view, index, (task,)) for index in range(start, min(start + size, len(view)))]
            batch = collate(items)
            if task in batch["labels"]:
                rows, labels = batch["labels"][task]
                yield batch["images"][rows], labels


class Chosen:
    """Some samples of a data set."""

    def __init__(self, dataset: DenseDataset, indices: Sequence[int]) -> None:
        """`indices` in the order wanted."""
        self.dataset, self.indices = dataset, list(indices)

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        """The data set's."""
        return self.dataset.tasks

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def label_file(self, task: str, index: int) -> Path | None:
        """The file a label comes from."""
        return label_source(self.dataset, task, self.indices[index])


class PlannedSteps(Dataset[dict[str, Any]]):
    """The "index" is a `Plan`: its parts as batches, with the sampler's state after it."""

    def __init__(self, data: JointData) -> None:
        self.data = data

    def __getitem__(self, plan: Plan) -> dict[str, Any]:
        return sent(lambda: {"parts": [self.data.batch(part) for part in plan.parts], "after": plan.after})


class StepLoader(DataLoader[dict[str, Any]]):
    """Steps as `PlannedSteps` gives them; an error of the data comes out of a worker as it was raised."""

    def __iter__(self) -> Any:
        return map(received, super().__iter__())


def build_loader(
    data: JointData, sampler: TaskSampler, workers: int, device: torch.device
) -> DataLoader[dict[str, Any]]:
    """An endless loader of steps, so that workers live as long as the run. The batches are the same for any number of them.

    For a CUDA device their tensors lie in pinned memory, from which they are copied while the device computes.
    """
    generator = torch.Generator().manual_seed(0)  # else the workers' base seed is drawn from the run's generator
    return StepLoader(
        PlannedSteps(data),
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=generator,
        collate_fn=_as_is,
    )


def _as_is(step: Any) -> Any:
    return step


def _build(config: Mapping[str, Any]) -> dict[str, DenseDataset]:
    options = {k: v for k, v in config.items() if k != "name"}
    if "name" not in config:
        raise ConfigError("recipe key data.name is missing: the name of a dense data set")
    return build_parts(config["name"], options)
