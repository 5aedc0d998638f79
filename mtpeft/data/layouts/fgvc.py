"""FGVC: the five fine-grained data sets as VPT splits them (Jia et al. 2022, arXiv 2203.12119)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mtpeft.data.layouts.reading import needed, read_json
from mtpeft.data.picture_files import PictureFiles, check_files
from mtpeft.errors import DataError
from mtpeft.options import OneOf

CLASSES = {"cub": 200, "nabirds": 555, "flowers": 102, "dogs": 120, "cars": 196}
FOLDERS = {"cub": "images", "nabirds": "images", "flowers": "", "dogs": "Images", "cars": ""}
"""Where in `root` the images are that the lists name."""


def fgvc(train: bool, root: str, task: Annotated[str, OneOf(tuple(CLASSES))], select: bool = False) -> PictureFiles:
    """`root` holds train.json, val.json and test.json, each {image path: class number}, beside the images.

    Trains on train.json and tests on test.json, or with `select`, for choosing settings, on val.json. Image paths are
    below `root/images` (cub, nabirds), `root/Images` (dogs) or `root` (flowers, cars).
    """
    name = "train.json" if train else "val.json" if select else "test.json"
    expected = f"train.json, val.json and test.json, of {{path below {FOLDERS[task] or 'root'}: class number}}"
    file = needed(Path(root) / name, f"FGVC {task}", root, expected)
    listed = read_json(file)
    plain = isinstance(listed, dict) and all(isinstance(n, int) and not isinstance(n, bool) for n in listed.values())
    if not plain or not listed:
        raise DataError(f"{file}: expected {{path: class number}}")
    numbers = sorted(set(listed.values()))
    if len(numbers) != CLASSES[task]:
        raise DataError(f"{file}: {len(numbers)} classes in it, expected the {CLASSES[task]} of {task}")
    place = {number: label for label, number in enumerate(numbers)}
    folder = Path(root) / FOLDERS[task]
    samples = [(str(folder / path), place[number]) for path, number in listed.items()]
    check_files((path for path, _ in samples), str(file))
    return PictureFiles(samples, tuple(map(str, numbers)))
