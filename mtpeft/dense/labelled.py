"""What kinds have in common whose labels are classes, and kinds whose labels are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch

from mtpeft.dense.base import Kind, check_shape
from mtpeft.dense.layout import Layout
from mtpeft.errors import DataError

IGNORED = 255
"""Label of a pixel that counts neither in the loss nor in a measure, for kinds whose labels are classes."""


class ClassKind(Kind):
    """One of `num_classes` classes per pixel: labels (H, W) of whole numbers from 0 on, 255 for ignored pixels."""

    layout: ClassVar[Layout] = Layout(torch.int64, IGNORED, channels=False)
    continuous: ClassVar[bool] = False
    num_classes: int

    def valid(self, label: torch.Tensor) -> torch.Tensor:
        """Pixels that are not 255."""
        return label != IGNORED

    def check(self, label: np.ndarray, where: str) -> None:
        """Whole numbers (H, W) of 0 to num_classes - 1, or 255."""
        check_shape(label, where)
        if not np.issubdtype(label.dtype, np.integer) and label.dtype != bool:
            raise DataError(f"{where}: the label is {label.dtype}; it must be of whole numbers, one class per pixel")
        outside = ((label < 0) | (label >= self.num_classes)) & (label != IGNORED)
        if outside.any():
            wrong = [int(v) for v in np.unique(label[outside])]
            shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
            allowed = f"0 to {self.num_classes - 1}, and {IGNORED} for ignored"
            raise DataError(
                f"{where}: label values {shown} are out of range: {allowed}; correct the file, or the number of classes"
            )

    def histogram_rows(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        """A row per class: its number and name."""
        return tuple(f"{number} {name}" for number, name in enumerate(classes or range(self.num_classes)))

    def histogram(self, label: np.ndarray, rows: int) -> np.ndarray:
        """Pixels of each class."""
        return np.bincount(label[self.valid_pixels(label)].astype(np.int64), minlength=rows)


class ValueKind(Kind):
    """Numbers per pixel: labels (H, W) or (H, W, channels), whose histogram has ranges that begin at `bins`."""

    bins: ClassVar[tuple[float, ...]] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    bin_unit: ClassVar[str] = ""

    def histogram_rows(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        """A row per range; the last has no upper end."""
        unit = f" {self.bin_unit}" if self.bin_unit else ""
        ranges = [f"{low:g} to {high:g}{unit}" for low, high in pairwise(self.bins)]
        return (*ranges, f"from {self.bins[-1]:g}{unit}")

    def histogram(self, label: np.ndarray, rows: int) -> np.ndarray:
        """Values in each range."""
        return np.histogram(label[self.valid_pixels(label)], [*self.bins, np.inf])[0]
