"""A stream as an Avalanche benchmark.

Avalanche fetches item by item through several layers of indexing, so an item here is the raw uint8 image (a view), and
the collate function normalises and augments the whole batch. Its plugins subset and concatenate these data sets freely
(replay, A-GEM, EWC, LwF): the collate function travels with them. An item of clips is a clip still to be read.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from mtpeft.data.dense.stream import DenseStream, DenseTask
from mtpeft.data.images import Images, stacked
from mtpeft.data.labelled import Labelled
from mtpeft.data.loader import ResumableLoader
from mtpeft.data.streams import TASK_KNOWN, Stream
from mtpeft.data.video.clips import Clips

with warnings.catch_warnings():
    # Avalanche imports packages that warn about themselves (JAXopt's end of life, distutils in GPUtil).
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import CLScenario, benchmark_from_datasets, with_classes_timeline, with_task_labels
    from avalanche.benchmarks.utils import AvalancheDataset, TaskAwareSupervisedClassificationDataset
    from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
    from avalanche.benchmarks.utils.flat_data import ConstantSequence


#: the name of the stream of validation data
VALIDATION = "validation"


class Collate:
    """Items [raw image, label, task label, ...] to [float images (B, 3, H, W), labels (B,), task labels (B,), ...].

    An image may be a pair (images, index) still to be read, where training changes pictures at random.
    """

    def __init__(self, images: Images) -> None:
        self._train, self._eval = images.transform, images.plain().transform
        self._current = self._train

    def for_group(self, group: str) -> Collate:
        """The same for one of Avalanche's transform groups; only "train" augments."""
        new = copy.copy(self)
        new._current = self._train if group == "train" else self._eval
        return new

    def __call__(self, items: Sequence[Sequence[Any]]) -> list[Tensor]:
        """Stack, finish with the current group's transform, and collate the rest as torch does."""
        images = stacked([self._read(item[0]) for item in items])  # a memory may mix grey and coloured data sets
        if self._current is not None:
            images = self._current.finish(images)
        rest: list[Tensor] = default_collate([tuple(item[1:]) for item in items])
        return [images, *rest]

    def _read(self, image: Tensor | tuple[Images, int]) -> Tensor:
        if isinstance(image, Tensor):
            return image
        images, index = image
        return images.shown(index) if self._current is self._train else images.raw(index)


class ClipCollate:
    """Items [(clips, index), label, task label, ...] to [clips (B, 3, T, H, W), labels (B,), task labels (B,), ...].

    Clips are read here, since a label must be that of the clip shown: an unreadable training file is replaced.
    """

    def __init__(self, train: bool = True) -> None:
        self.train = train

    def for_group(self, group: str) -> ClipCollate:
        """The same for one of Avalanche's transform groups; only "train" augments."""
        return ClipCollate(group == "train")

    def __call__(self, items: Sequence[Sequence[Any]]) -> list[Tensor]:
        """Read one clip after another, and collate the rest as torch does."""
        read = [(clips if self.train else clips.plain()).batch([index]) for clips, index in (item[0] for item in items)]
        rest: list[Tensor] = default_collate([tuple(item[2:]) for item in items])
        return [torch.cat([x for x, _ in read]), torch.cat([y for _, y in read]), *rest]


class StreamDataset(TaskAwareSupervisedClassificationDataset):
    """Avalanche's classification data set, whose transform group also chooses how batches are finished."""

    def with_transforms(self, group_name: str) -> StreamDataset:
        """A new data set in that group."""
        new: StreamDataset = super().with_transforms(group_name)
        if isinstance(new.collate_fn, (Collate, ClipCollate)):
            new.collate_fn = new.collate_fn.for_group(group_name)
        return new


class _RawItems(torch.utils.data.Dataset[tuple[Any, int]]):
    """(raw image, label) pairs of an `Images`; ((images, index), label) where training changes pictures at random."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        transform = self.images.transform
        later = transform is not None and transform.augments_pictures
        return (self.images, index) if later else self.images.raw(index), self.images.targets[index]


class _ClipItems(torch.utils.data.Dataset[tuple[tuple[Clips, int], int]]):
    """((clips, index), label) pairs."""

    def __init__(self, clips: Clips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[tuple[Clips, int], int]:
        return (self.clips, index), self.clips.targets[index]


class TaskLoader:
    """A `ResumableLoader` over one task's images whose batches carry Avalanche's task labels: [x, y, label (B,)].

    Dense labels y are (B, ...); the label of the task is one number per image all the same. A batch may be None (see there).
    """

    def __init__(self, loader: ResumableLoader, label: int) -> None:
        self.loader, self.label = loader, label

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Tensor] | None]:
        for batch in self.loader:
            yield None if batch is None else [*batch, torch.full((len(batch[1]),), self.label)]


def to_avalanche(stream: Stream | DenseStream) -> CLScenario:
    """A benchmark with `train_stream` and `test_stream`, one experience per task of the stream.

    Where tasks have validation data there is a stream `VALIDATION` of them, too.

    Task labels are 0, 1, ... for a stream whose tasks are known at test time and 0 for the others. Experiences have
    `task_label`, `task_labels` and `task_name`, and unless they are dense `classes_in_this_experience` and the rest of
    the classes timeline.
    """
    if isinstance(stream, DenseStream):
        return _dense(stream)
    labels = [index if stream.kind in TASK_KNOWN else 0 for index in range(len(stream))]
    parts = {
        "train": [_dataset(task.train, label) for task, label in zip(stream, labels, strict=True)],
        "test": [_dataset(task.test, label) for task, label in zip(stream, labels, strict=True)],
    }
    if all(task.validation is not None for task in stream):
        parts[VALIDATION] = [_dataset(t.validation, n) for t, n in zip(stream, labels, strict=True) if t.validation]
    benchmark = with_task_labels(with_classes_timeline(benchmark_from_datasets(**parts)))
    for part in benchmark.streams.values():
        for experience in part:
            # Avalanche makes it a set, but its own multi-head classifier indexes a tensor with it.
            experience.classes_in_this_experience = sorted(experience.classes_in_this_experience)
    return _named(benchmark, stream)


def _dense(stream: DenseStream) -> CLScenario:
    def dataset(task: DenseTask, part: str, label: int) -> AvalancheDataset:
        view = getattr(task, part)
        labels = TaskLabels(ConstantSequence(label, len(view)))
        return AvalancheDataset([view], data_attributes=[labels], collate_fn=view.collate_fn)

    parts = {part: [dataset(task, part, i) for i, task in enumerate(stream)] for part in ("train", "test")}
    return _named(with_task_labels(benchmark_from_datasets(**parts)), stream)


def _named(benchmark: CLScenario, stream: Stream | DenseStream) -> CLScenario:
    for part in benchmark.streams.values():
        part.benchmark = benchmark
        for experience, name in zip(part, stream.task_names, strict=True):
            experience.task_name = name
    return benchmark


def _dataset(data: Labelled, task_label: int) -> StreamDataset:
    attributes = [DataAttribute(data.targets, "targets"), TaskLabels(ConstantSequence(task_label, len(data)))]
    if isinstance(data, Clips):
        return StreamDataset([_ClipItems(data)], data_attributes=attributes, collate_fn=ClipCollate())
    assert isinstance(data, Images)
    return StreamDataset([_RawItems(data)], data_attributes=attributes, collate_fn=Collate(data))
