"""Data sets whose images are rows (see `mtpeft.data.feature_cache`), read from disk in place of the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from mtpeft.data.corruptions import Corruption
from mtpeft.data.feature_cache import FeatureCache
from mtpeft.data.images import Images
from mtpeft.data.labelled import Labelled
from mtpeft.data.loader import ResumableLoader
from mtpeft.data.streams import Stream
from mtpeft.data.video.clips import Clips
from mtpeft.errors import ConfigError, DataError

CHUNK = 32
"""Images the backbone sees at once."""
Precision = Callable[[], AbstractContextManager[Any]]


class RowImages(Images):
    """Images as rows (B, width). Until `fill` has looked at all images, rows are computed as they are asked for."""

    def __init__(self, source: Images, cache: FeatureCache, precision: Precision = nullcontext) -> None:
        """`precision`: the context of the forwards that get these rows."""
        super().__init__(source.name, source.targets, source.classes, None)
        self.source, self.cache, self.precision = source.plain(), cache, precision
        with precision():
            self.store = cache.files
        self._digests: list[bytes] | None = None

    @property
    def files(self) -> list[str] | None:
        """Those of the images."""
        return self.source.files

    def describe(self) -> dict[str, Any] | None:
        """How images are shown to the backbone."""
        return self.source.describe()

    def raw(self, index: int) -> Tensor:
        """The row (width,) of image `index`."""
        return self.raw_batch([index])[0]

    def raw_batch(self, indices: Sequence[int]) -> Tensor:
        """Rows (B, width)."""
        if self._digests is not None:
            return torch.from_numpy(self.store.read([self._digests[index] for index in indices]))
        with self.precision():
            return self.cache.part.rows(self.source.batch(indices)[0]).cpu()

    def plain(self) -> RowImages:
        """The same: rows are without augmentation. Where training has a precision of its own, those of evaluation."""
        return self if self.precision is nullcontext else RowImages(self.source, self.cache)

    def _select(self, chosen: Tensor) -> None:
        self.source = self.source.subset(chosen.tolist())
        if self._digests is not None:
            self._digests = [self._digests[index] for index in chosen.tolist()]

    def corrupted(self, corruption: Corruption) -> Images:
        """Rows cannot be corrupted, images can."""
        raise DataError(f"{self.name}: rows of features cannot be corrupted; corrupt the images first")

    def fill(self, workers: int = 0, step: Callable[[], None] = lambda: None) -> None:
        """Look at all images, compute the rows that are missing, and keep them; `step` is called for every batch."""
        loader = ResumableLoader(self.source, CHUNK, seed=0, epoch=0, shuffle=False, num_workers=workers)
        digests: list[bytes] = []
        with self.precision():
            for images, _ in loader:
                digests += self.cache.add(images)
                step()
        self.cache.flush()
        self._digests = digests

    def __copy__(self) -> RowImages:
        """A view with all this has; `copy` would take the state that is sent."""
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __getstate__(self) -> dict[str, Any]:
        """A loader's worker reads rows and computes none."""
        state = dict(vars(self))
        return state if self._digests is None else {**state, "cache": None, "source": None, "precision": nullcontext}


def row_stream(
    stream: Stream, cache: FeatureCache, precision: Precision = nullcontext
) -> tuple[Stream, list[RowImages]]:
    """The stream with rows for images, and all its parts; `precision` is that of training alone.

    Raises `ConfigError` for what is shown otherwise in every epoch.
    """
    made: list[RowImages] = []

    def rows(data: Labelled, context: Precision = nullcontext) -> RowImages:
        assert isinstance(data, Images)
        made.append(RowImages(data, cache, context))
        return made[-1]

    tasks = [
        dataclasses.replace(
            task,
            train=rows(task.train, precision),
            test=rows(task.test),
            validation=None if task.validation is None else rows(task.validation),
        )
        for task in stream
    ]
    return dataclasses.replace(stream, tasks=tuple(tasks)), made


def check_fixed(stream: Stream) -> None:
    """Raise `ConfigError` where the training images of a task are not the same in every epoch."""
    for task in stream:
        if isinstance(task.train, Clips) or isinstance(task.test, Clips):
            raise ConfigError(f"task {task.name!r} is clips, which are drawn anew in every epoch")
        assert isinstance(task.train, Images)
        transform = task.train.transform
        if transform is not None and transform.augment is not None:
            raise ConfigError(f"task {task.name!r} has other training images, or labels, in every epoch (augment)")
        if not _same(task.train):
            raise ConfigError(f"task {task.name!r} shows its training images otherwise each time they are read")


def _same(images: Images) -> bool:
    """Whether three images, read twice by other random numbers, are what they are without augmentation."""
    for index in {0, len(images) // 2, len(images) - 1}:
        plain = images.plain().batch([index])[0]
        for seed in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                if not torch.equal(images.batch([index])[0], plain):
                    return False
    return True
