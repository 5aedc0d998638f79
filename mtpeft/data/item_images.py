"""Images that are read one at a time, from whatever a data set gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtpeft.data.corruptions import Corruption
from mtpeft.data.images import Images, sides, stacked, wanted_sides
from mtpeft.data.reading import READ_ERRORS, item_pixels
from mtpeft.data.sources import read_files
from mtpeft.data.transforms import InputTransform
from mtpeft.errors import DataError, MtpeftError


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
        #: what white is where its pictures are floats, 1 or 255
        self.white = None if transform is None else self._find_white()

    @property
    def files(self) -> list[str] | None:
        """One file per image."""
        return None if self._files is None else [self._files[index] for index in self._indices]

    def raw(self, index: int) -> Tensor:
        """Image `index`, read now; raises `DataError` when it cannot be read or has another size."""
        return self._read(index, self._pixels)

    def shown(self, index: int) -> Tensor:
        """The same, where the transform augments pictures changed at random at its own size."""
        augments = self.transform is not None and self.transform.augments_pictures
        return self._read(index, self._augmented) if augments else self.raw(index)

    def _read(self, index: int, prepare: Callable[[Any, int], Tensor]) -> Tensor:
        source = self._indices[index]
        try:
            item = self.base[source][0]
        except (*READ_ERRORS, DataError) as error:
            reason = " ".join(str(error).split())
            file = f"{self._files[source]}: " if self._files is not None and self._files[source] not in reason else ""
            raise DataError(f"{self.name}: image {source} cannot be read ({file}{reason})") from error
        pixels = prepare(item, source)
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
        pixels = item_pixels(item, where, self.white)
        if isinstance(pixels, Image.Image):
            return self.transform.image(pixels)
        if tuple(pixels.shape[-2:]) != self.transform.size:
            wanted = wanted_sides(self.transform)
            raise DataError(f"{where} is {sides(pixels)}, but the backbone takes {wanted}; resize it")
        return pixels

    def _augmented(self, item: Any, source: int) -> Tensor:
        assert self.transform is not None
        return self.transform.augmented(item_pixels(item, self._where(source), self.white))

    def _find_white(self) -> float | None:
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
