"""Labelled images ready for a backbone: any torchvision-style data set behind one small interface.

An `Images` gives uint8 pixels one by one (`raw`), and finished batches (`batch`): augmented, three channels and
normalised. Doing that to whole batches is what makes small images cheap.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtpeft.data.corruptions import Corruption
from mtpeft.data.transforms import InputTransform
from mtpeft.errors import DataError

CHUNK = 1024  # images resized or corrupted at a time: bounds the float copy that the operation makes


class Images(Dataset[tuple[Tensor, int]], ABC):
    """N labelled images: `name`, `targets` (N ints), `classes` (names), `transform` (None: pixels as they are).

    `numbered` says that all parts number their classes alike, so that a class may be absent from one.
    """

    numbered = False

    def __init__(
        self, name: str, targets: Sequence[int], classes: Sequence[str], transform: InputTransform | None
    ) -> None:
        self.name = name
        self.targets = list(targets)
        self.classes = tuple(classes)
        self.transform = transform
        self._labels = torch.tensor(self.targets, dtype=torch.long)
        check_labels(self)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def files(self) -> list[str] | None:
        """The file of every image; None where they are not known, or all in one."""
        return None

    @property
    def skipped(self) -> Sequence[str]:
        """None: an image that cannot be read is an error."""
        return ()

    def describe(self) -> dict[str, Any] | None:
        """The transform in plain types; None without one."""
        return None if self.transform is None else self.transform.describe()

    @abstractmethod
    def raw(self, index: int) -> Tensor:
        """Image `index` before normalisation and augmentation: uint8 (1 or 3, H, W), or float taken as it is."""

    @abstractmethod
    def raw_batch(self, indices: Sequence[int]) -> Tensor:
        """The same for B indices: (B, 1 or 3, H, W)."""

    def shown(self, index: int) -> Tensor:
        """Image `index` as training shows it, before it is batched: drawn anew, where the transform augments pictures."""
        return self.raw(index)

    @property
    def text(self) -> str:
        """What becomes of an image, in words; empty without a transform."""
        return "" if self.transform is None else self.transform.text()

    @property
    def mixes(self) -> bool:
        """Whether batches have distributions over the classes for labels."""
        return self.transform is not None and self.transform.augment is not None and self.transform.augment.mixes

    @abstractmethod
    def _select(self, chosen: Tensor) -> None:
        """Keep only the images at the indices `chosen`, in that order."""

    @abstractmethod
    def corrupted(self, corruption: Corruption) -> Images:
        """A data set of the corrupted images; the noise of an image is fixed."""

    def finish(self, images: Tensor) -> Tensor:
        """Raw images (B, 1 or 3, H, W) to what the backbone takes: float (B, 3, H, W)."""
        return images if self.transform is None else self.transform.finish(images)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """B finished images, float (B, 3, H, W), and their labels, int64 (B,), or where they are mixed float (B, classes)."""
        images, labels = self._finished(indices), self._labels[list(indices)]
        if not self.mixes:
            return images, labels
        assert self.transform is not None and self.transform.augment is not None
        return self.transform.augment.mix(images, labels, len(self.classes))

    def _finished(self, indices: Sequence[int]) -> Tensor:
        if self.transform is not None and self.transform.augments_pictures:
            return self.finish(stacked([self.shown(index) for index in indices]))
        return self.finish(self.raw_batch(indices))

    def batch_rows(self, indices: Sequence[int], rows: range) -> tuple[Tensor, Tensor]:
        """Rows of `batch(indices)`. Augmentation draws for a batch as a whole, so that all of it must be made."""
        if self.transform is None or self.transform.augment is None:
            return self.batch([indices[row] for row in rows])
        images, labels = self.batch(indices)
        return images[rows.start : rows.stop], labels[rows.start : rows.stop]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._finished([index])[0], self.targets[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        return list(zip(self._finished(indices).unbind(), [self.targets[index] for index in indices], strict=True))

    def subset(
        self,
        indices: Sequence[int],
        label_map: Mapping[int, int] | None = None,
        name: str = "",
        classes: Sequence[str] | None = None,
    ) -> Images:
        """The images at `indices`, in that order; `label_map` gives the new label of every old one among them.

        With a map, the class names become `classes`, by default those of the mapped labels in the order of the new labels.
        """
        chosen = torch.as_tensor(indices, dtype=torch.long)
        new = copy.copy(self)
        new.name = name or self.name
        new._select(chosen)
        targets = self._labels[chosen].tolist()
        if label_map is not None:
            targets = [label_map[target] for target in targets]
            old = {label: original for original, label in label_map.items()}
            new.classes = tuple(classes or (self.classes[old[label]] for label in sorted(old)))
        new.targets = targets
        new._labels = torch.tensor(targets, dtype=torch.long)
        return new

    def plain(self) -> Images:
        """The same images without augmentation."""
        new = copy.copy(self)
        new.transform = None if self.transform is None else self.transform.plain()
        return new


class TensorImages(Images):
    """Images that fit in memory: `data` uint8 (N, 1 or 3, H, W), at the backbone's size."""

    def __init__(
        self,
        name: str,
        data: Tensor,
        targets: Sequence[int],
        classes: Sequence[str],
        transform: InputTransform | None = None,
    ) -> None:
        super().__init__(name, targets, classes, transform)
        if data.ndim != 4 or data.shape[1] not in (1, 3) or len(data) != len(self.targets):
            shape = tuple(data.shape)
            raise DataError(
                f"{name}: images of shape {shape} for {len(self.targets)} labels, expected (N, 1 or 3, H, W)"
            )
        if transform is not None and tuple(data.shape[-2:]) != transform.size:
            raise DataError(
                f"{name}: images of {sides(data)}, but the backbone takes {wanted_sides(transform)}; resize them"
            )
        self.data = data

    def raw(self, index: int) -> Tensor:
        """Image `index`, a view into `data`."""
        return self.data[index]

    def raw_batch(self, indices: Sequence[int]) -> Tensor:
        """Images (B, 1 or 3, H, W)."""
        return self.data[list(indices)]

    @property
    def text(self) -> str:
        """As of any, resized whole."""
        return "" if self.transform is None else self.transform.text(whole=True)

    def _select(self, chosen: Tensor) -> None:
        self.data = self.data[chosen]

    def corrupted(self, corruption: Corruption) -> Images:
        """A copy, corrupted once."""
        new = copy.copy(self)
        starts = range(0, len(self), CHUNK)
        parts = [corruption(self.data[i : i + CHUNK], range(i, min(i + CHUNK, len(self)))) for i in starts]
        new.data = torch.cat(parts)
        return new


def check_labels(images: Images) -> None:
    """Raise `DataError` with data set, index and value for an empty data set or a label that is no class."""
    if not images.targets:
        raise DataError(f"{images.name}: no image in it")
    limit = len(images.classes)
    for index, label in enumerate(images.targets):
        if not 0 <= label < limit:
            raise DataError(f"{images.name}: label {label} at index {index}, expected 0 to {limit - 1}")


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Images (1 or 3, H, W) as one batch; where some have colours, the grey ones get three equal channels."""
    if len({image.shape[0] for image in images}) > 1:
        images = [image.expand(3, -1, -1) for image in images]
    return torch.stack(list(images))


def sides(images: Tensor) -> str:
    """Height and width of images (..., H, W), for messages."""
    return f"{images.shape[-2]} x {images.shape[-1]}"


def wanted_sides(transform: InputTransform) -> str:
    """Height and width the backbone takes, for messages."""
    return f"{transform.size[0]} x {transform.size[1]}"
