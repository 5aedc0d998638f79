"""VTAB-1k (Zhai et al. 2019, arXiv 1910.04867): 19 tasks of 1,000 training images, in the lists of their common release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mtpeft.data.layouts.reading import needed, read_pairs
from mtpeft.data.picture_files import PictureFiles, check_files
from mtpeft.options import OneOf

NATURAL = {
    "cifar": 100,
    "caltech101": 102,
    "dtd": 47,
    "oxford_flowers102": 102,
    "oxford_iiit_pet": 37,
    "svhn": 10,
    "sun397": 397,
}
SPECIALIZED = {"patch_camelyon": 2, "eurosat": 10, "resisc45": 45, "diabetic_retinopathy": 5}
STRUCTURED = {
    "clevr_count": 8,
    "clevr_dist": 6,
    "dmlab": 6,
    "kitti": 4,
    "dsprites_loc": 16,
    "dsprites_ori": 16,
    "smallnorb_azi": 18,
    "smallnorb_ele": 9,
}
CLASSES = {**NATURAL, **SPECIALIZED, **STRUCTURED}
"""Tasks in the order of the papers' tables, and how many classes each has."""


def vtab(train: bool, root: str, task: Annotated[str, OneOf(tuple(CLASSES))], select: bool = False) -> PictureFiles:
    """`root/TASK` holds train800.txt, val200.txt, train800val200.txt and test.txt, lines "images/... 3", and the images.

    Trains on all 1,000 and tests on test.txt; with `select`, for choosing settings, trains on 800 and tests on val200.txt.
    """
    if select:
        name = "train800.txt" if train else "val200.txt"
    else:
        name = "train800val200.txt" if train else "test.txt"
    folder = Path(root) / task
    expected = "TASK/train800.txt, val200.txt, train800val200.txt and test.txt, of lines 'path label'"
    file = needed(folder / name, "VTAB", root, expected)
    samples = [(str(folder / path), label) for path, label in read_pairs(file, CLASSES[task])]
    check_files((path for path, _ in samples), str(file))
    return PictureFiles(samples, tuple(map(str, range(CLASSES[task]))), numbered=True)
