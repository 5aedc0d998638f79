"""What a dense data set gives: one image with the labels of several tasks, as numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mtpeft.dense.kinds import Kind, build_kind
from mtpeft.errors import DataError


@dataclass
class Sample:
    """One image and its labels; a task whose label is missing is an absent key.

    `image` is uint8 (H, W, 3). Labels by kind: semantic classes and parts integer (H, W), 255 ignored; depth float32
    (H, W) in metres, not above 0 invalid; normals float32 (H, W, 3), unit vectors (x right, y down, z towards the
    camera), zero invalid; saliency and edges uint8 (H, W) of 0 and 1, 255 ignored; distance float32 (H, W) in 0 to 1,
    negative invalid. `name` says which image it is in messages.
    """

    image: np.ndarray
    labels: dict[str, np.ndarray]
    name: str

    def check_sizes(self) -> None:
        """Raise `DataError` when the image is no uint8 (H, W, 3) or a label has another height or width."""
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise DataError(f"{self.name}: image {self.image.dtype} {self.image.shape}, expected uint8 (H, W, 3)")
        height, width = self.image.shape[:2]
        for task, label in self.labels.items():
            if label.shape[:2] != (height, width):
                size = " x ".join(str(n) for n in label.shape[:2])
                turned = (
                    ", and an image is turned as its EXIF orientation says"
                    if label.shape[:2] == (width, height)
                    else ""
                )
                raise DataError(
                    f"{self.name}: label {task!r} is {size} pixels, its image {height} x {width}; they must be equal"
                    f"{turned}"
                )


@dataclass(frozen=True)
class TaskInfo:
    """A task of a data set: the kind of its label, options of the kind, and names of the classes (if it has any)."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def build_kind(
        self, name: str | None = None, options: Mapping[str, Any] | None = None, metric: str | None = None
    ) -> Kind:
        """The kind of the label, or the one called `name`, with `options` and main `metric` of the user's.

        The options of the data set go to its own kind only. Raises what `mtpeft.dense.kinds.build_kind` does.
        """
        name = self.kind if name is None else name
        own = self.options if name == self.kind else {}
        main = {} if metric is None else {"metric": metric}
        return build_kind(name, **{**own, **(options or {}), **main})


class DenseDataset(Protocol):
    """What the engine needs of a data set; a class need not inherit from this."""

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        """The tasks whose labels a sample can have."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def label_source(dataset: Any, task: str, index: int) -> Path | None:
    """The file a label of a data set comes from, where the data set can tell (a method `label_file(task, index)`)."""
    path: Path | None = dataset.label_file(task, index) if hasattr(dataset, "label_file") else None
    return path
