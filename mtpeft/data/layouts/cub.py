"""CUB-200-2011 (Wah et al. 2011) in its own lists: 5,994 training and 5,794 test images."""

from __future__ import annotations

from pathlib import Path

from mtpeft.data.layouts.reading import needed
from mtpeft.data.picture_files import PictureFiles, check_files
from mtpeft.errors import DataError

CLASSES = 200
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


def cub200(train: bool, root: str) -> PictureFiles:
    """`root` (CUB_200_2011) holds images/ and the lists `LISTS`, each of lines "id value"."""
    expected = f"images/, {', '.join(LISTS)}"
    images, labels, parts, names = (_by_id(needed(Path(root) / name, "CUB200", root, expected)) for name in LISTS)
    for name, other in zip(LISTS[1:3], (labels, parts), strict=True):
        if set(other) != set(images):
            raise DataError(f"CUB200 {root}: {name} and images.txt differ in their ids")
    if len(names) != CLASSES or not set(labels.values()) <= set(names):
        raise DataError(f"CUB200 {root}: {len(names)} classes in classes.txt, expected {CLASSES}, and a name per label")
    place = {number: label for label, number in enumerate(names)}
    wanted = "1" if train else "0"
    folder = Path(root) / "images"
    samples = [(str(folder / path), place[labels[key]]) for key, path in images.items() if parts[key] == wanted]
    check_files((path for path, _ in samples), f"CUB200 {root}")
    return PictureFiles(samples, tuple(names.values()))


def _by_id(file: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        key, _, value = line.strip().partition(" ")
        if not value or key in found:
            raise DataError(f"{file}, line {number}: {line.strip()!r}, expected an id of its own and a value")
        found[key] = value.strip()
    return found
