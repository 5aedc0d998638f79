"""Data sets of continual learning that are published as train/ and test/ with a folder per class.

These are the re-split archives of class-incremental studies (Zhou et al. 2023, arXiv 2303.07338): ImageNet-R, ImageNet-A
and ObjectNet have no training part of their own, and OmniBenchmark and VTAB are subsets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtpeft.data.layouts.reading import needed
from mtpeft.data.picture_files import PictureFiles
from mtpeft.data.reading import read_picture
from mtpeft.errors import DataError

CLASSES = {
    "ImageNetR": 200,
    "ImageNetA": 200,
    "ObjectNet": 200,
    "OmniBenchmark": 300,
    "CUB80": 200,
    "VTAB50": 50,
}
"""How many classes each has. CUB80 is CUB-200 split 80 to 20, VTAB50 five data sets of VTAB, ten classes of each."""


def class_folders(kind: str) -> Callable[..., PictureFiles]:
    """The data set `kind`, one of `CLASSES`, as a function of its part and root."""

    def build(train: bool, root: str) -> PictureFiles:
        """`root` holds train/ and test/, each with one folder of images per class, numbered by name."""
        part = "train" if train else "test"
        expected = f"train/ and test/, each of {CLASSES[kind]} folders, one per class"
        return read_folders(needed(Path(root) / part, kind, root, expected), kind, CLASSES[kind])

    return build


def read_folders(folder: Path, kind: str, classes: int | None = None) -> PictureFiles:
    """The images of one folder per class. Raises `DataError` for another number than `classes`, or a class without image."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder), loader=read_picture)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{kind} {folder}: {' '.join(str(error).split())}") from error
    if classes is not None and len(found.classes) != classes:
        raise DataError(f"{kind} {folder}: {len(found.classes)} folders in it, expected {classes}, one per class")
    return PictureFiles(found.samples, found.classes)
