"""A data set whose images and labels are files below one folder, one file per image and task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtpeft.data.dense.sample import Sample, TaskInfo
from mtpeft.data.reading import READ_ERRORS, read_image, read_values
from mtpeft.errors import ConfigError, DataError, UnknownNameError

Array = np.ndarray


@dataclass(frozen=True)
class LabelFiles:
    """The files of one task.

    `patterns` are paths below the data set's folder with {id} for the image's name; the first that exists is read by
    `read`, which gets the root, the name and the path, and returns the label, or None when this image has none.
    """

    info: TaskInfo
    patterns: tuple[str, ...]
    read: Callable[[Path, str, Path], Array | None]


class FolderDataset:
    """Samples from files. Which images a split has is written in a text file, one name a line.

    Raises `DataError` when the list, an image or a label file is missing; `missing="skip"` leaves labels out whose
    file is missing, and `missing_files` names them.
    """

    def __init__(
        self,
        name: str,
        root: str,
        split: str,
        list_file: str,
        image_patterns: Sequence[str],
        labels: Mapping[str, LabelFiles],
        tasks: Sequence[str] | None = None,
        missing: str = "error",
    ) -> None:
        """`list_file` and `image_patterns` are paths below `root`; `tasks` are the labels to read (None: all)."""
        for task in tasks or ():
            if task not in labels:
                raise UnknownNameError("task", task, labels, f"data set {name!r}, key data.tasks")
        if missing not in ("error", "skip"):
            raise ConfigError(f"data set {name!r}: missing is {missing!r}, expected 'error' or 'skip'")
        self.name, self.root, self.split = name, Path(root).expanduser(), split
        self._labels = {task: files for task, files in labels.items() if tasks is None or task in tasks}
        self.tasks = {task: files.info for task, files in self._labels.items()}
        self.ids = self._read_list(self.root / list_file)
        self.images = [self._find(image_patterns, identity) for identity in self.ids]
        self.paths = {
            task: [self._find(files.patterns, identity) for identity in self.ids]
            for task, files in self._labels.items()
        }
        self._check_images(image_patterns)
        self.missing_files = {
            task: [
                self.root / self._labels[task].patterns[0].format(id=i)
                for i, p in zip(self.ids, paths, strict=True)
                if p is None
            ]
            for task, paths in self.paths.items()
        }
        if missing == "error":
            report_missing(name, len(self), self.missing_files)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        path = self.images[index]
        assert path is not None
        labels: dict[str, Array] = {}
        for task, paths in self.paths.items():
            label = self._read_label(task, self.ids[index], paths[index])
            if label is not None:
                labels[task] = label
        return Sample(read_image(path), labels, str(path))

    def label_file(self, task: str, index: int) -> Path | None:
        """The file a label comes from."""
        return self.paths[task][index]

    def _read_label(self, task: str, identity: str, path: Path | None) -> Array | None:
        if path is None:
            return None
        try:
            return self._labels[task].read(self.root, identity, path)
        except READ_ERRORS as error:
            raise DataError(f"{path}: the label {task!r} cannot be read: {' '.join(str(error).split())}") from error

    def _read_list(self, path: Path) -> list[str]:
        if not path.is_file():
            raise DataError(f"data set {self.name!r}: {path} is missing; is data.root ({self.root}) the right folder?")
        ids = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if not ids:
            raise DataError(f"data set {self.name!r}: {path} names no image")
        return ids

    def _find(self, patterns: Sequence[str], identity: str) -> Path | None:
        candidates = (self.root / pattern.format(id=identity) for pattern in patterns)
        return next((path for path in candidates if path.is_file()), None)

    def _check_images(self, patterns: Sequence[str]) -> None:
        absent = [i for i, path in zip(self.ids, self.images, strict=True) if path is None]
        if absent:
            first = self.root / patterns[0].format(id=absent[0])
            raise DataError(
                f"data set {self.name!r}: {len(absent)} of {len(self.ids)} images are missing, first {first}"
            )


def report_missing(name: str, total: int, missing: Mapping[str, Sequence[Path]]) -> None:
    """Raise `DataError` that names the first missing label file and says how many are missing per task."""
    absent = {task: files for task, files in missing.items() if files}
    if not absent:
        return
    counts = ", ".join(f"{task} {len(files)} of {total}" for task, files in absent.items())
    first = next(iter(absent.values()))[0]
    raise DataError(
        f"data set {name!r}: label files are missing ({counts}), first {first}; restore them, leave the task out with "
        "data.tasks=[...], or train with what is there by data.missing='skip'"
    )


def read_mask(root: Path, identity: str, path: Path) -> Array:
    """uint8 (H, W) of 0 and 1, 255 where it is ignored (see `binary`)."""
    return binary(read_values(path), str(path))


def binary(values: Array, where: str) -> Array:
    """What a mask or a soft map means: uint8 of 0 and 1.

    Of nothing but 0 and 1 they are taken as they are, beside which 255 is ignored; else they are split at half of what
    the type can hold: 255 where none is above, else 65535, floats of 0 to 1 at half of 1. Raises `DataError` that names
    `where` for a mask of several channels, or numbers that are not finite or negative.
    """
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim != 2:
        raise DataError(f"{where}: the mask has shape {values.shape}, not (H, W); store one channel")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise DataError(f"{where}: the mask has values from {low:.4g} to {high:.4g}; they must be 0 and 1, or 0 to 255")
    if high <= 1:
        return (values > 0.5).astype(np.uint8)
    if high == 255 and values.dtype.kind != "f" and (values == 1).any() and np.isin(values, (0, 1, 255)).all():
        return values.astype(np.uint8)
    return (values > (255 if high <= 255 else 65535) / 2).astype(np.uint8)


def lowered(stored: Array, unlabelled: Sequence[int] = (0,)) -> Array:
    """Class numbers of a file in which class 0 is stored as 1: int64, `unlabelled` ones 255; what cannot be a class stays."""
    stored = stored.astype(np.int64)
    return np.where(np.isin(stored, unlabelled), 255, np.where(stored > 255, stored, stored - 1))


def read_normals(root: Path, identity: str, path: Path) -> Array:
    """float32 (H, W, 3) unit vectors; an image stores (n + 1) / 2 * 255. Vectors shorter than 0.1 count as invalid."""
    values = read_values(path).astype(np.float32)
    if values.ndim != 3 or values.shape[2] not in ((3, 4) if path.suffix == ".png" else (3,)):
        raise DataError(f"{path}: the normals have shape {values.shape}, not (H, W, 3)")
    if path.suffix == ".png":
        values = values[..., :3] * (2 / 255) - 1
    else:
        _check_unit(values, path)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.where(length > 0.1, values / np.maximum(length, 0.1), 0).astype(np.float32)


def _check_unit(normals: Array, path: Path) -> None:
    """Raise `DataError` for what stretching to length 1 would hide: other codes than unit vectors, NaN."""
    if not np.isfinite(normals).all():
        raise DataError(f"{path}: a normal is not finite; an invalid pixel is (0, 0, 0)")
    longest = float(np.linalg.norm(normals, axis=-1).max(initial=0))
    if longest > 1.1:
        raise DataError(
            f"{path}: a normal has length {longest:.4g}; store unit vectors, or a .png of (n + 1) / 2 * 255"
        )


def each(values: Array) -> Iterator[Any]:
    """The entries of what a .mat file holds as a struct array: one struct, several, or none."""
    yield from np.atleast_1d(np.asarray(values, dtype=object)).ravel()
