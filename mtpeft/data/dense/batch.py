"""Dense samples as torch items and batches. An item is a function of (seed, epoch, index) alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mtpeft.data.dense.sample import DenseDataset, Sample, label_source
from mtpeft.data.dense.transforms import Compose
from mtpeft.dense.kinds import KINDS, Kind
from mtpeft.errors import DataError


class DenseView(Dataset[dict[str, Any]]):
    """A data set seen through transforms, as normalised tensors.

    An item: `image` float32 (3, H, W), `labels` {task: tensor} (see `Kind.layout`; missing labels are absent
    keys), `index`, `name` and `size` (H, W). The random numbers of item i in epoch e come from (seed, e, i): neither order nor
    workers nor a restart changes them. Raises `DataError` that names the file for labels whose size is not the image's,
    and those that a kind they train refuses; what a kind warns of is told once per label.
    """

    def __init__(
        self,
        dataset: DenseDataset,
        transforms: Compose | None,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        tasks: Sequence[str] | None = None,
        checks: Mapping[str, Sequence[Kind]] | None = None,
    ) -> None:
        """`mean` and `std` per channel, of pixels from 0 to 1; `tasks` are the labels to give (None: all).

        `checks` are the kinds that each label serves.
        """
        self.dataset, self.transforms, self.seed = dataset, transforms, seed
        self.kinds = {task: info.kind for task, info in dataset.tasks.items() if tasks is None or task in tasks}
        self.epoch = 0
        self.mean, self.std = tuple(mean), tuple(std)
        self._mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self._std = torch.tensor(std, dtype=torch.float32)[:, None, None]
        self._layouts = {task: KINDS.get(kind, f"task {task!r}").layout for task, kind in self.kinds.items()}
        self.collate_fn = collate
        self._checks = dict(checks or {})
        self._warned: set[str] = set()

    def set_epoch(self, epoch: int) -> None:
        """Draw other random numbers from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.read(index)
        if self.transforms is not None:
            rng = np.random.default_rng([self.seed, self.epoch, index])
            sample = self.transforms(sample, self.kinds, rng)
        pixels = torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1))).float() / 255
        return {
            "image": (pixels - self._mean) / self._std,
            "labels": {task: self._layouts[task].tensor(label) for task, label in sample.labels.items()},
            "index": index,
            "name": sample.name,
            "size": tuple(pixels.shape[1:]),
        }

    def picture(self, index: int) -> torch.Tensor:
        """The normalised image (3, H, W) of an item."""
        image: torch.Tensor = self[index]["image"]
        return image

    def read(self, index: int) -> Sample:
        """The sample as it is in the data set, its labels checked."""
        sample = self.dataset[index]
        labels = {task: label for task, label in sample.labels.items() if task in self.kinds}
        sample = Sample(sample.image, labels, sample.name)
        sample.check_sizes()
        for task, kinds in self._checks.items():
            for kind in kinds if task in labels else ():
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    kind.check(labels[task], str(label_source(self.dataset, task, index) or sample.name))
                self._warn(task, [str(warning.message) for warning in caught])
        return sample

    def _warn(self, task: str, messages: Sequence[str]) -> None:
        if messages and task not in self._warned:
            self._warned.add(task)
            warnings.warn(f"{messages[0]} (told once per data set; `mtpeft check-data` tells of all)", stacklevel=3)


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: `images` (B, 3, H, W), `labels` {task: (rows (n,), labels (n, ...))}, `index` (B,), `names` and `size` (H, W).

    `rows` are the positions of the images that have the task's label; a task without any is absent. Raises
    `DataError` for images of different sizes.
    """
    sizes = {item["size"]: item["name"] for item in items}
    if len(sizes) > 1:
        (first, one), (second, other) = list(sizes.items())[:2]
        raise DataError(
            f"images of different sizes in one batch: {one} is {first[0]} x {first[1]}, {other} {second[0]} x "
            f"{second[1]}; end the transforms with dict(name='crop', size=...) or dict(name='resize', size=...)"
        )
    labels = {}
    for task in dict.fromkeys(task for item in items for task in item["labels"]):
        rows = [row for row, item in enumerate(items) if task in item["labels"]]
        labels[task] = (torch.tensor(rows), torch.stack([items[row]["labels"][task] for row in rows]))
    return {
        "images": torch.stack([item["image"] for item in items]),
        "labels": labels,
        "index": torch.tensor([item["index"] for item in items]),
        "names": [item["name"] for item in items],
        "size": next(iter(sizes)),
    }
