"""The handwritten digits that scikit-learn carries (UCI optical recognition of handwritten digits, test part)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from mtpeft.errors import DataError


class Digits(Dataset[tuple[Any, int]]):
    """1,797 digits of 8 x 8 grey pixels, 10 classes, split by us: every fifth image of a class is a test image.

    `data` is uint8 (N, 8, 8), the 17 levels of the source stretched to 0..255; `targets` a list of N ints; an item is
    (PIL image of mode "L", or what `transform` makes of it, label). Raises `DataError` without scikit-learn.
    """

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, train: bool = True, transform: Callable[[Image.Image], Any] | None = None) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError("Digits needs scikit-learn: pip install scikit-learn") from error
        source = load_digits()
        rank = np.zeros(len(source.target), dtype=int)
        for digit in range(10):
            members = source.target == digit
            rank[members] = np.arange(members.sum())
        chosen = (rank % 5 != 4) if train else (rank % 5 == 4)
        self.transform = transform
        self.data = np.round(source.images[chosen] * (255 / 16)).astype(np.uint8)
        self.targets: list[int] = source.target[chosen].tolist()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[index])
        return (image if self.transform is None else self.transform(image)), self.targets[index]
