"""Pictures of noise in the place of a published data set: for plans, which have no files."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from mtpeft.data.layouts import LAYOUTS
from mtpeft.errors import ConfigError

SIZE = (256, 320)
"""Height and width in pixels of a made-up picture."""
CLASSES = {
    "FashionMNIST": 10,
    "torchvision.CIFAR10": 10,
    "torchvision.CIFAR100": 100,
    "torchvision.Caltech101": 101,
    "torchvision.DTD": 47,
    "torchvision.FGVCAircraft": 100,
    "torchvision.FashionMNIST": 10,
    "torchvision.Flowers102": 102,
    "torchvision.Food101": 101,
    "torchvision.ImageNet": 1000,
    "torchvision.MNIST": 10,
    "torchvision.OxfordIIITPet": 37,
    "torchvision.SVHN": 10,
    "torchvision.StanfordCars": 196,
}
"""How many classes data sets have that are no `Layout`."""


class MadeUpPictures(Dataset[tuple[Image.Image, int]]):
    """`per_class` pictures of each of `number` classes; a picture is a function of its part and number."""

    numbered = True

    def __init__(self, kind: str, train: bool, number: int, per_class: int) -> None:
        self.seed = zlib.crc32(f"{kind} {train}".encode())
        self.classes = tuple(map(str, range(number)))
        self.targets = [label for label in range(number) for _ in range(per_class)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        rng = np.random.default_rng((self.seed, index))
        return Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)), self.targets[index]


def number_of_classes(data: Mapping[str, Any]) -> int | None:
    """How many classes an image data set of a recipe has, None where only its files say it.

    The options that say it must be right.
    """
    kind = str(data.get("type"))
    return LAYOUTS[kind].classes(data) if kind in LAYOUTS else CLASSES.get(kind)


def made_up(kind: str, options: Mapping[str, Any], train: bool, per_class: Any) -> MadeUpPictures:
    """The part of `kind` made up. Raises `ConfigError` where its classes are in its files alone."""
    number = number_of_classes({**options, "type": kind})
    if number is None:
        raise ConfigError(f"data set {kind!r}: its files alone say its classes, so that none can be made up; read it")
    if not isinstance(per_class, int) or isinstance(per_class, bool) or per_class < 1:
        raise ConfigError(f"data.generated is {per_class!r}, expected the number of made-up images of a class")
    return MadeUpPictures(kind, train, number, per_class)
