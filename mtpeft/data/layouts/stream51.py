"""Stream-51 (Roady et al. 2020, CVPR workshops): frames of videos of 51 classes, cut to the object in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtpeft.data.layouts.reading import needed, read_json
from mtpeft.data.picture_files import Box, PictureFiles, check_files
from mtpeft.errors import DataError
from mtpeft.options import Positive

CLASSES = 51


def stream51(train: bool, root: str, box_scale: Positive | None = 1.1) -> PictureFiles:
    """`root` holds Stream-51_meta_train.json and Stream-51_meta_test.json, and the images they name.

    An entry is [class, ..., [right, left, bottom, top], path below root]. An image is cut to its box enlarged by
    `box_scale`; None takes all of it.
    """
    name = f"Stream-51_meta_{'train' if train else 'test'}.json"
    expected = "Stream-51_meta_train.json and Stream-51_meta_test.json"
    file = needed(Path(root) / name, "Stream51", root, expected)
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file}: expected a list of [class, ..., box, path]")
    read = [_entry(entry, f"{file}, entry {index}") for index, entry in enumerate(entries)]
    samples = [(str(Path(root) / path), label) for label, _, path in read]
    check_files((path for path, _ in samples), str(file))
    boxes = None if box_scale is None else [_enlarged(box, box_scale) for _, box, _ in read]
    return PictureFiles(samples, tuple(map(str, range(CLASSES))), boxes=boxes)


def _entry(entry: Any, where: str) -> tuple[int, list[float], str]:
    plain = isinstance(entry, list) and len(entry) >= 3 and isinstance(entry[-1], str)
    box = entry[-2] if plain else None
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
    if not numbers or not isinstance(entry[0], int) or not 0 <= entry[0] < CLASSES:
        raise DataError(
            f"{where}: {str(entry)[:80]}, expected [class of 0 to {CLASSES - 1}, ..., [right, left, bottom, top], path]"
        )
    return entry[0], entry[-2], entry[-1]


def _enlarged(box: list[float], scale: float) -> Box:
    """The box around the same middle; what lies outside the picture is cut off when it is read."""
    right, left, bottom, top = box
    middle, height = (left + right) / 2, (top + bottom) / 2
    wide, high = scale * (right - left) / 2, scale * (bottom - top) / 2
    return int(middle - wide), int(height - high), int(middle + wide), int(height + high)
