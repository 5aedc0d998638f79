"""Training and validation part of a dense data set: opened together, their classes matched by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtpeft.data.classes import same_classes
from mtpeft.data.dense.build import build_dense_dataset
from mtpeft.data.dense.registry import SPLITS
from mtpeft.data.dense.sample import DenseDataset, Sample, TaskInfo, label_source
from mtpeft.errors import DataError


def build_parts(name: str, options: Mapping[str, Any]) -> dict[str, DenseDataset]:
    """Both splits of the data set registered as `name`: {"train": ..., "val": ...}.

    Where the validation part has the classes of a label in another order, its labels are renumbered. Raises `DataError`
    that names the classes each part lacks, and what `build_dense_dataset` does.
    """
    parts = {split: build_dense_dataset(name, split, **options) for split in SPLITS}
    numbers = {}
    for task, info in parts["train"].tasks.items():
        other = parts["val"].tasks.get(task)
        if other is None:
            raise DataError(f"data set {name!r}: the validation part has no label {task!r}")
        if info.classes != other.classes:
            ours, theirs = dict(enumerate(info.classes)), dict(enumerate(other.classes))
            where = [f"label {task!r} of {name} {split}" for split in SPLITS]
            numbers[task] = {old: new for new, old in same_classes(ours, theirs, *where).items()}
    if numbers:
        parts["val"] = Renumbered(parts["val"], numbers, parts["train"].tasks)
    return parts


class Renumbered:
    """A data set whose labels of classes have other numbers: `numbers` is {task: {old number: new number}}."""

    def __init__(
        self, dataset: DenseDataset, numbers: Mapping[str, Mapping[int, int]], tasks: Mapping[str, TaskInfo]
    ) -> None:
        """`tasks` are those of the data set that has the new numbers."""
        self.dataset, self.numbers, self.tasks = dataset, numbers, dict(tasks)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        labels = dict(sample.labels)
        for task, numbers in self.numbers.items():
            if task in labels:
                labels[task] = np.array(labels[task])  # what is no class stays, and is told of by the kind's check
                for old, new in numbers.items():
                    labels[task][sample.labels[task] == old] = new
        return Sample(sample.image, labels, sample.name)

    def label_file(self, task: str, index: int) -> Path | None:
        """The file a label comes from."""
        return label_source(self.dataset, task, index)
