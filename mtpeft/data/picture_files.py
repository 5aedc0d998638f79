"""Pictures in files with their labels: what every source that lists files gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset

from mtpeft.data.reading import read_picture
from mtpeft.errors import DataError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


class PictureFiles(Dataset[tuple[Image.Image, int]]):
    """N pictures, read when they are asked for: `samples` are N (path, label), `classes` the names.

    `numbered` says that its publisher numbered the classes alike in all parts, so that one may be absent from a part.
    With `boxes` a picture is cut to what its own has of it. An item is (PIL image, label); raises `DataError` with the path.
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        classes: Sequence[str],
        numbered: bool = False,
        boxes: Sequence[Box] | None = None,
    ) -> None:
        self.samples = list(samples)
        self.targets = [label for _, label in self.samples]
        self.classes = tuple(classes)
        self.numbered = numbered
        self.boxes = boxes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        picture = read_picture(path)
        if self.boxes is not None:
            left, top, right, bottom = self.boxes[index]
            box = max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height)
            if box[0] >= box[2] or box[1] >= box[3]:
                raise DataError(f"{path}: its box {self.boxes[index]} has no pixel of the picture")
            picture = picture.crop(box)
        return picture, label


def check_files(paths: Iterable[str], where: str) -> None:
    """Raise `DataError` that counts the files that are not there and names the first; `where` lists them."""
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        count = "a file is" if len(missing) == 1 else f"{len(missing)} files are"
        raise DataError(f"{where}: {count} not there, first {missing[0]}")


def part_of(targets: Sequence[int], share: float, seed: int, train: bool) -> list[int]:
    """Ascending indices of the training or the test part: `share` of every class is tested on, drawn by `seed`.

    One item of a class at the least is in each part; a class of one item is a `DataError`.
    """
    labels = torch.tensor(list(targets))
    chosen: list[int] = []
    for label in sorted(set(targets)):
        members = (labels == label).nonzero()[:, 0]
        if len(members) < 2:
            raise DataError(f"test_share: class {label} has one item, of which none can be held out")
        held = min(max(1, round(share * len(members))), len(members) - 1)
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed * 1_000_003 + label))
        chosen += members[order[held:] if train else order[:held]].tolist()
    return sorted(chosen)
