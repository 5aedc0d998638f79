"""Images of noise, in the place of a data set's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image


class NoiseImages:
    """`per_class` grey images of noise of each class, `size` pixels square: the same for the same index."""

    def __init__(self, classes: Sequence[str], per_class: int, size: int, train: bool) -> None:
        """As torchvision's data sets: `data` uint8 (N, size, size), `targets`, `classes`; other noise for the test part."""
        self.classes = tuple(classes)
        self.targets = [label for label in range(len(classes)) for _ in range(per_class)]
        self.data = np.random.default_rng(int(train)).integers(0, 256, (len(self.targets), size, size), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[index]), self.targets[index]
