"""What a prediction is: classes with probabilities, or a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from mtpeft.dense.kinds import Kind
from mtpeft.heads.resize import enlarge


@dataclass(frozen=True)
class Classes:
    """One input among the classes of a task, or of all tasks where `task` is None.

    `output` are the model's scores (classes,), `names` those of the classes in the same order.
    """

    task: str | None
    names: tuple[str, ...]
    output: torch.Tensor

    @property
    def index(self) -> int:
        """The place of the class with the largest score."""
        return int(self.output.argmax())

    @property
    def name(self) -> str:
        """Its name."""
        return self.names[self.index]

    @property
    def probabilities(self) -> torch.Tensor:
        """Softmax of the scores, float32 (classes,); of an ensemble that takes the larger of two, made to sum to 1."""
        return self.output.softmax(0)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The `count` classes with the largest scores, the best first: (name, probability)."""
        probabilities = self.probabilities.tolist()
        order = self.output.sort(descending=True, stable=True).indices[:count].tolist()
        return [(self.names[place], probabilities[place]) for place in order]


@dataclass(frozen=True)
class Map:
    """A dense task's map of one picture.

    `small` is the model's output where the picture lies, float32 (channels, h, w); `image` the picture, uint8 (H, W, 3);
    `names` those of the classes, if the task has any. What has the picture's size is made when it is asked for.
    """

    task: str
    kind: Kind
    names: tuple[str, ...]
    small: torch.Tensor
    image: np.ndarray

    @property
    def output(self) -> torch.Tensor:
        """The output enlarged to the picture's size, bilinearly: float32 (channels, H, W)."""
        return enlarge(self.small[None], (self.image.shape[0], self.image.shape[1]))[0]

    @property
    def values(self) -> np.ndarray:
        """What the map says, (H, W) or (H, W, channels): class numbers (uint8), probabilities, metres, unit vectors, ..."""
        return self.kind.values(self.output)

    @property
    def picture(self) -> np.ndarray:
        """The map in the task's colours: uint8 (H, W, 3)."""
        return self.kind.picture(self.output)

    def overlay(self, share: float = 0.5) -> np.ndarray:
        """The picture with `share` of the map's colours over it: uint8 (H, W, 3)."""
        mixed = Image.blend(Image.fromarray(self.image), Image.fromarray(self.picture), share)
        return np.asarray(mixed)

    def shares(self, count: int = 3) -> list[tuple[str, float]]:
        """What the most pixels are, by class or range of values: (name, share of the pixels)."""
        rows = self.kind.histogram_rows(self.names)
        values: Any = self.values if self.kind.continuous else np.round(self.values).astype(np.int64)
        found = self.kind.histogram(values, len(rows)).astype(float)
        order = np.argsort(-found, kind="stable")[:count]
        total = max(found.sum(), 1.0)
        return [(rows[place], float(found[place] / total)) for place in order if found[place]]


Prediction: TypeAlias = Classes | Map
