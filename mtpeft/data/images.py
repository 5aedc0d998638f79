"""Labelled images ready for a backbone: any torchvision-style data set behind one small interface.

An `Images` gives uint8 pixels one by one (`raw`), and finished batches (`batch`): augmented, three channels and
normalised. Doing that to whole batches is what makes small images cheap.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mtpeft.data.corruptions import Corruption
from mtpeft.data.reading import READ_ERRORS, item_pixels
from mtpeft.data.sources import build_dataset, read_class_names, read_files, read_pixels, read_targets
from mtpeft.data.transforms import Augment, InputTransform, build_transform
from mtpeft.errors import DataError, MtpeftError

CHUNK = 1024  # images resized or corrupted at a time: bounds the float copy that the operation makes


class Images(Dataset[tuple[Tensor, int]], ABC):
    """N labelled images: `name`, `targets` (N ints), `classes` (names), `transform` (None: pixels as they are)."""

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
        """B finished images, float (B, 3, H, W), and their labels, int64 (B,)."""
        return self.finish(self.raw_batch(indices)), self._labels[list(indices)]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.finish(self.raw(index)[None])[0], self.targets[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        images, labels = self.batch(indices)
        return list(zip(images.unbind(), labels.tolist(), strict=True))

    def subset(self, indices: Sequence[int], label_map: Mapping[int, int] | None = None, name: str = "") -> Images:
        """The images at `indices`, in that order; `label_map` gives the new label of every old one among them.

        With a map, the class names become those of the mapped labels in the order of the new labels.
        """
        chosen = torch.as_tensor(indices, dtype=torch.long)
        new = copy.copy(self)
        new.name = name or self.name
        new._select(chosen)
        targets = self._labels[chosen].tolist()
        if label_map is not None:
            targets = [label_map[target] for target in targets]
            old = {label: original for original, label in label_map.items()}
            new.classes = tuple(self.classes[old[label]] for label in sorted(old))
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
            raise DataError(f"{name}: images of {_by(data)}, but the backbone takes {_size(transform)}; resize them")
        self.data = data

    def raw(self, index: int) -> Tensor:
        """Image `index`, a view into `data`."""
        return self.data[index]

    def raw_batch(self, indices: Sequence[int]) -> Tensor:
        """Images (B, 1 or 3, H, W)."""
        return self.data[list(indices)]

    def _select(self, chosen: Tensor) -> None:
        self.data = self.data[chosen]

    def corrupted(self, corruption: Corruption) -> Images:
        """A copy, corrupted once."""
        new = copy.copy(self)
        starts = range(0, len(self), CHUNK)
        parts = [corruption(self.data[i : i + CHUNK], range(i, min(i + CHUNK, len(self)))) for i in starts]
        new.data = torch.cat(parts)
        return new


class ItemImages(Images):
    """Images read one at a time from a torchvision-style data set that gives (image, label).

    With a `transform`, an image is a PIL image of any mode, or an array (H, W[, C]), which go through it; or a tensor
    (C, H, W) of the backbone's size. Their values are read as `mtpeft.data.reading.item_pixels` says. Without one, float
    tensors are taken as they are.
    """

    def __init__(
        self,
        name: str,
        base: Any,
        targets: Sequence[int],
        classes: Sequence[str],
        transform: InputTransform | None = None,
    ) -> None:
        super().__init__(name, targets, classes, transform)
        self.base = base
        self._indices = list(range(len(self.targets)))
        self._corruption: Corruption | None = None
        self._files = read_files(base)
        self._top = None if transform is None else self._white()

    @property
    def files(self) -> list[str] | None:
        """One file per image."""
        return None if self._files is None else [self._files[index] for index in self._indices]

    def raw(self, index: int) -> Tensor:
        """Image `index`, read now; raises `DataError` when it cannot be read or has another size."""
        source = self._indices[index]
        try:
            item = self.base[source][0]
        except (*READ_ERRORS, DataError) as error:
            reason = " ".join(str(error).split())
            file = f"{self._files[source]}: " if self._files is not None and self._files[source] not in reason else ""
            raise DataError(f"{self.name}: image {source} cannot be read ({file}{reason})") from error
        pixels = self._pixels(item, source)
        return pixels if self._corruption is None else self._corruption(pixels[None], [source])[0]

    def raw_batch(self, indices: Sequence[int]) -> Tensor:
        """Images (B, 1 or 3, H, W), read one after another."""
        return stacked([self.raw(index) for index in indices])

    def _select(self, chosen: Tensor) -> None:
        self._indices = [self._indices[index] for index in chosen.tolist()]

    def corrupted(self, corruption: Corruption) -> Images:
        """A view that corrupts each image when it is read."""
        new = copy.copy(self)
        new._corruption = corruption
        if self.raw(0).dtype != torch.uint8:
            raise DataError(f"{self.name}: gives float tensors, but a corruption needs images; give PIL images")
        return new

    def _where(self, source: int) -> str:
        return f"{self.name}: image {source}" + (f" ({self._files[source]})" if self._files is not None else "")

    def _pixels(self, item: Any, source: int) -> Tensor:
        where = self._where(source)
        if self.transform is None:
            if not isinstance(item, Tensor):
                raise DataError(f"{where} is a {type(item).__name__}, expected a tensor; use to_images")
            if not item.is_floating_point():
                raise DataError(f"{where} is a tensor of {item.dtype}, expected one of floats; use to_images")
            if item.ndim != 3 or item.shape[0] not in (1, 3):
                raise DataError(f"{where} has shape {tuple(item.shape)}, expected (1 or 3, H, W)")
            return item
        pixels = item_pixels(item, where, self._top)
        if isinstance(pixels, Image.Image):
            return self.transform.image(pixels)
        if tuple(pixels.shape[-2:]) != self.transform.size:
            wanted = _size(self.transform)
            raise DataError(f"{where} is {_by(pixels)}, but the backbone takes {wanted}; resize it")
        return pixels

    def _white(self) -> float | None:
        """What white is in a data set of floats: 1 or 255, from a few images; None for other types."""
        step = max(1, len(self) // 8)
        found: float | None = None
        for source in range(0, len(self), step):
            try:
                item = self.base[source][0]
            except (*READ_ERRORS, MtpeftError):  # told of where the image is used
                continue
            if isinstance(item, Image.Image):
                return None
            if not (item.is_floating_point() if isinstance(item, Tensor) else np.asarray(item).dtype.kind == "f"):
                return None
            found = 255.0 if (item > 1).any() else found or 1.0
        return found


def build_images(
    config: Mapping[str, Any],
    data_config: Mapping[str, Any],
    train: bool,
    augment: Mapping[str, Any] | Augment | None = None,
) -> Images:
    """`build_dataset` and `to_images` in one step, for recipes."""
    part = "train" if train else "test"
    return to_images(build_dataset(config, train), data_config, train, augment, name=f"{config.get('type')} {part}")


def to_images(
    dataset: Any,
    data_config: Mapping[str, Any],
    train: bool = False,
    augment: Mapping[str, Any] | Augment | None = None,
    name: str = "",
) -> Images:
    """Any torchvision-style data set as `Images` for the backbone of this data configuration (`build_transform`).

    A data set with uint8 `data` of one size, which its items show as they are, is resized once, whole, and kept in memory
    (N x H x W bytes per channel); others are read image by image, resized and centre-cropped as timm does. `augment`
    acts only when `train` is true. Raises `DataError` for an empty data set, for a label out of range, and for items that
    are not (image, label) with the label that `targets` has.
    """
    transform = build_transform(data_config, train, augment)
    name = name or type(dataset).__name__
    targets = read_targets(dataset, name)
    classes = read_class_names(dataset, targets, name)
    data = read_pixels(dataset)
    if not _as_told(dataset, targets, data, name) or data is None:
        return ItemImages(name, dataset, targets, classes, transform)
    resized = torch.cat([transform.resize(part) for part in data.split(CHUNK)]) if len(data) else data
    return TensorImages(name, resized, targets, classes, transform)


def as_images(dataset: Any) -> Images:
    """`dataset` itself when it is an `Images`, else a view of it whose tensors are taken as they are."""
    if isinstance(dataset, Images):
        return dataset
    name = type(dataset).__name__
    targets = read_targets(dataset, name)
    return ItemImages(name, dataset, targets, read_class_names(dataset, targets, name))


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


def _as_told(dataset: Any, targets: Sequence[int], data: Tensor | None, name: str) -> bool:
    """Whether the first and the last item show what `data` holds; raises `DataError` where they are no (image, label)
    with the label that `targets` has."""
    shown = True
    for index in {0, len(targets) - 1} if targets else ():
        try:
            item = dataset[index]
        except (*READ_ERRORS, MtpeftError):  # told of where the image is used
            continue
        if not isinstance(item, list | tuple) or len(item) != 2:
            size = f"{len(item)} parts" if isinstance(item, list | tuple) else type(item).__name__
            raise DataError(f"{name}: item {index} is {size}, expected (image, label)")
        label = item[1].item() if isinstance(item[1], Tensor | np.ndarray) and item[1].shape == () else item[1]
        if not isinstance(label, int | np.integer):
            raise DataError(f"{name}: item {index} has a label of type {type(item[1]).__name__}, expected an int")
        if label != targets[index]:
            raise DataError(f"{name}: item {index} has label {label!r}, but its `targets` say {targets[index]}")
        if data is not None:
            pixels = np.asarray(item_pixels(item[0], f"{name}: image {index}"))
            pixels = pixels.transpose(2, 0, 1) if isinstance(item[0], Image.Image | np.ndarray) else pixels
            own = data[index].expand(3, -1, -1).numpy()
            shown &= pixels.shape[-2:] == own.shape[-2:] and bool((pixels == own).all())
    return shown


def _by(images: Tensor) -> str:
    return f"{images.shape[-2]} x {images.shape[-1]}"


def _size(transform: InputTransform) -> str:
    return f"{transform.size[0]} x {transform.size[1]}"
