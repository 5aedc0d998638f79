"""Dense data sets whose images are rows (see `mtpeft.data.feature_cache`); their labels are read as ever."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch

from mtpeft.data.dense.batch import DenseView
from mtpeft.data.dense.stream import DenseStream, LabelView
from mtpeft.data.feature_cache import FeatureCache, digests_of
from mtpeft.data.loader import ResumableLoader
from mtpeft.data.row_images import CHUNK, Precision
from mtpeft.errors import ConfigError


class RowView(DenseView):
    """A view whose items have a row (width,) for an image. Sample and labels are read each time, and the image by its pixels
    is known; until `fill` has looked at all, rows are computed as they are asked for.
    """

    def __init__(self, view: DenseView, cache: FeatureCache, precision: Precision = nullcontext) -> None:
        """`precision`: the context of the forwards that get these rows."""
        vars(self).update(vars(view))
        self.cache, self.precision = cache, precision
        with precision():
            self.store = cache.files

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        return {**item, "image": self._row(item["image"])}

    def picture(self, index: int) -> torch.Tensor:
        """The normalised image (3, H, W) of an item."""
        image: torch.Tensor = super().__getitem__(index)["image"]
        return image

    def fill(self, workers: int = 0, step: Callable[[], None] = lambda: None) -> None:
        """Look at all images, compute the rows that are missing, and keep them; `step` is called for every batch."""
        plain = DenseView.__new__(DenseView)
        vars(plain).update(vars(self))
        with self.precision():
            for batch in ResumableLoader(plain, CHUNK, seed=0, epoch=0, shuffle=False, num_workers=workers):
                self.cache.add(batch["images"])
                step()
        self.cache.flush()

    def _row(self, image: torch.Tensor) -> torch.Tensor:
        digests = digests_of(image[None])
        if digests[0] in self.store:
            return torch.from_numpy(self.store.read(digests))[0]
        with self.precision():
            return self.cache.part.rows(image[None])[0].cpu()


def row_labels(
    stream: DenseStream, cache: FeatureCache, precision: Precision = nullcontext
) -> tuple[DenseStream, list[RowView]]:
    """The stream with rows for images, and its parts; `precision` is that of training alone."""
    tasks, made = [], []
    for task in stream:
        train = RowView(task.train.view, cache, precision)
        plain, test = (RowView(part.view, cache) for part in (task.train.plain(), task.test))
        made += [train, test]
        batch = task.train.collate_fn
        views = LabelView(train, plain, batch), LabelView(test, test, batch)
        tasks.append(dataclasses.replace(task, train=views[0], test=views[1]))
    return dataclasses.replace(stream, tasks=tuple(tasks)), made


def check_fixed_views(views: Iterable[DenseView]) -> None:
    """Raise `ConfigError` where training images are not the same in every epoch."""
    for view in views:
        for transform in getattr(view.transforms, "transforms", ()):
            if not getattr(transform, "fixed", False):
                name = type(transform).__name__.lower()
                raise ConfigError(f"transforms.train has {name!r}, which shows an image otherwise in every epoch")


def common_size(views: Iterable[DenseView]) -> tuple[int, int]:
    """Height and width of the first image of every view. Raises `ConfigError` where they differ."""
    sizes = {view[0]["size"] for view in views if len(view)}
    if len(sizes) != 1:
        shown = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise ConfigError(f"images are of several sizes ({shown}); resize them to one")
    height, width = sizes.pop()
    return height, width
