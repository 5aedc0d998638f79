"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747) read from its four idx.gz files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from mtpeft.errors import DataError

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


class FashionMNIST(Dataset[tuple[Any, int]]):
    """60,000 training or 10,000 test images of clothes, 28 x 28, grey, 10 classes.

    `data` is uint8 (N, 28, 28), `targets` a list of N ints, `classes` ten names; an item is (PIL image of mode "L",
    or what `transform` makes of it, label). The files are looked for in `root` when it is given; else in the folder
    that the environment variable MTPEFT_DATA names (or its subfolder fashion-mnist), in ./data/fashion-mnist and in
    the folder of the Debian package dataset-fashion-mnist. Raises `DataError` for a missing or damaged file.
    """

    classes = CLASSES

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        train: bool = True,
        transform: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        part = "train" if train else "t10k"
        names = (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz")
        folder = _find_folder(root, names)
        self.transform = transform
        self.data = read_idx(folder / names[0], ndim=3)
        if self.data.shape[1:] != (28, 28):
            height, width = self.data.shape[1:]
            raise DataError(f"{folder / names[0]}: images of {height} x {width}, expected 28 x 28; get the file anew")
        labels = read_idx(folder / names[1], ndim=1)
        if len(labels) != len(self.data):
            raise DataError(f"{folder / names[1]}: {len(labels)} labels, {len(self.data)} images; get the files anew")
        wrong = np.flatnonzero(labels >= len(CLASSES))
        if len(wrong):
            index = int(wrong[0])
            raise DataError(f"{folder / names[1]}: label {labels[index]} at index {index}, expected 0 to 9")
        self.targets: list[int] = labels.tolist()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[index])
        return (image if self.transform is None else self.transform(image)), self.targets[index]


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The uint8 array in a gzipped idx file (big-endian: magic 0x0000 08 ndim, then each size, then the bytes)."""
    try:
        with gzip.open(path, "rb") as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or unreadable ({error}); get the file anew with `make data`") from error
    expected = bytes((0, 0, 8, ndim))
    if content[:4] != expected:
        raise DataError(f"{path}: not an idx file of bytes in {ndim} dimensions (starts with {content[:4].hex()!r})")
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{path}: only {len(content)} bytes long, shorter than its header")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    if len(content) - header != math.prod(shape):
        raise DataError(f"{path}: sizes {shape} in the header, but {len(content) - header} bytes of data follow")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape).copy()


def _find_folder(root: str | os.PathLike[str] | None, names: tuple[str, ...]) -> Path:
    folders = [Path(root)] if root is not None else _default_folders()
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return folder
    places = ", ".join(str(folder) for folder in folders)
    raise DataError(
        f"Fashion-MNIST: {names[0]} and {names[1]} not found in {places}; "
        "run `make data`, or install the Debian package dataset-fashion-mnist"
    )


def _default_folders() -> list[Path]:
    given = os.environ.get("MTPEFT_DATA")
    chosen = [Path(given), Path(given) / "fashion-mnist"] if given else []
    return [*chosen, Path("data") / "fashion-mnist", DEBIAN_FOLDER]
