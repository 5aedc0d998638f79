"""Any torchvision-style data set as `Images`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtpeft.data.images import CHUNK, Images, TensorImages
from mtpeft.data.item_images import ItemImages
from mtpeft.data.reading import READ_ERRORS, item_pixels
from mtpeft.data.sources import build_dataset, read_class_names, read_pixels, read_targets
from mtpeft.data.transforms import Augment, build_transform
from mtpeft.errors import DataError, MtpeftError


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
    (N x H x W bytes per channel); others are read image by image, resized and centre-cropped as timm does, as are all
    where `data_config` says `crop_arrays`, and training images whose `augment` changes pictures. `augment` acts only when
    `train` is true. Raises `DataError` for an empty data set, for a label out of range, and for items that are not
    (image, label) with the label that `targets` has.
    """
    transform = build_transform(data_config, train, augment)
    name = name or type(dataset).__name__
    targets = read_targets(dataset, name)
    classes = read_class_names(dataset, targets, name)
    data = read_pixels(dataset)
    one_by_one = transform.augments_pictures or data_config.get("crop_arrays", False)
    if not _as_told(dataset, targets, data, name) or data is None or one_by_one:
        images = ItemImages(name, dataset, targets, classes, transform)
        images.numbered = getattr(dataset, "numbered", False)
        return images
    resized = torch.cat([transform.resize(part) for part in data.split(CHUNK)]) if len(data) else data
    return TensorImages(name, resized, targets, classes, transform)


def as_images(dataset: Any) -> Images:
    """`dataset` itself when it is an `Images`, else a view of it whose tensors are taken as they are."""
    if isinstance(dataset, Images):
        return dataset
    name = type(dataset).__name__
    targets = read_targets(dataset, name)
    return ItemImages(name, dataset, targets, read_class_names(dataset, targets, name))


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
