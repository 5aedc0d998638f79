"""Surface normals: unit vectors in the camera's frame, x to the right, y down, z towards the camera.

A surface that faces the camera has z = 1. Labels float (n, 3, H, W); zero and non-finite vectors are invalid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch.nn.functional import normalize

from mtpeft.dense.base import PERCENT_UP, Kind, Measure, Metric, check_shape, masked_mean, register_kind, zeros
from mtpeft.dense.colours import blacken
from mtpeft.dense.layout import Layout
from mtpeft.errors import DataError

SHARES = (11.25, 22.5, 30.0)
"""Degrees; the shares of pixels within them are reported."""
BIN = 0.01
"""Degrees per bin of the histogram that the median is read from."""
DIRECTIONS = ("right", "left", "down", "up", "towards the camera", "away from it")
"""Where a normal points most: along x, y or z, and against it."""


class Angles(Measure):
    """Mean, median and RMS angle (degrees) between prediction and truth, and the shares (%) within 11.25, 22.5 and 30.

    Fouhey et al. 2013. The exact median would need every pixel at once: it is interpolated within the bin of 0.01 degrees
    in which half of the pixels are reached, so it is right to 0.01 degrees. All other values are exact.
    """

    def __init__(self) -> None:
        """Histogram over 0 to 180 degrees; sums of angles and squares, and counts within each of `SHARES`."""
        super().__init__(histogram=zeros(round(180 / BIN)), sums=zeros(2 + len(SHARES)))

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """output and label (n, 3, H, W) of any length but zero."""
        valid = valid_normals(label)
        predicted, truth = (tensor.detach().movedim(1, -1)[valid].cpu() for tensor in (output, label))
        angles = angles_between(predicted, truth)
        bins = (angles / BIN).long().clamp(max=len(self.totals["histogram"]) - 1)
        self.totals["histogram"] += torch.bincount(bins, minlength=len(self.totals["histogram"]))
        within = [(angles <= limit).sum(dtype=torch.float64) for limit in SHARES]
        self.totals["sums"] += torch.stack([angles.sum(), angles.square().sum(), *within])

    def compute(self) -> dict[str, float | None]:
        """mean, median, rmse, within_11.25, within_22.5, within_30."""
        histogram = self.totals["histogram"]
        count = float(histogram.sum())
        if count == 0:
            return dict.fromkeys(Normals.metrics)
        total, squares, *within = (self.totals["sums"] / count).tolist()
        reached = histogram.cumsum(0)
        middle = int(torch.searchsorted(reached, count / 2))
        part = (count / 2 - float(reached[middle] - histogram[middle])) / float(histogram[middle])
        shares = {f"within_{limit:g}": 100 * share for limit, share in zip(SHARES, within, strict=True)}
        return {"mean": total, "median": BIN * (middle + part), "rmse": math.sqrt(squares), **shares}


def valid_normals(label: torch.Tensor) -> torch.Tensor:
    """(n, 3, H, W) -> (n, H, W): finite and not zero."""
    return torch.isfinite(label).all(1) & label.ne(0).any(1)


def angles_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(..., 3) each -> degrees (...), float64. The arc tangent keeps small angles, which the arc cosine loses."""
    a, b = a.double(), b.double()
    return torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)))


@register_kind("normals")
class Normals(Kind):
    """Normals by three outputs, whose length does not matter.

    Loss "l1": the mean absolute difference of the components of unit vectors; "cosine": 1 - cosine of the angle.
    """

    layout = Layout(torch.float32, 0.0, channels=True)
    channels = 3
    metrics: ClassVar = {
        "mean": Metric("deg", False),
        "median": Metric("deg", False),
        "rmse": Metric("deg", False),
        **{f"within_{limit:g}": PERCENT_UP for limit in SHARES},
    }
    default_weight = 10.0

    def __init__(self, loss: Literal["l1", "cosine"] = "l1", metric: str | None = None) -> None:
        """`loss` is "l1" or "cosine"."""
        super().__init__(metric)
        self.cosine = loss == "cosine"

    def valid(self, label: torch.Tensor) -> torch.Tensor:
        """Finite and not zero."""
        return valid_normals(label)

    def pixel_loss(self, output: torch.Tensor, label: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """L1 on unit vectors, or 1 - cosine."""
        predicted = normalize(output.float(), dim=1, eps=1e-6)
        truth = normalize(torch.where(valid[:, None], label, 0.0), dim=1)
        if self.cosine:
            return masked_mean(1 - (predicted * truth).sum(1), valid)
        return masked_mean((predicted - truth).abs(), valid)

    def measure(self) -> Measure:
        """Histogram and sums of angles."""
        return Angles()

    @classmethod
    def flipped(cls, label: np.ndarray) -> np.ndarray:
        """Mirrored, and x the other way round."""
        return super().flipped(label) * np.array([-1, 1, 1], dtype=label.dtype)

    def histogram_rows(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        """The six directions along the axes."""
        return DIRECTIONS

    def histogram(self, label: np.ndarray, rows: int) -> np.ndarray:
        """Normals by the direction they are nearest to."""
        vectors = label[self.valid_pixels(label)]
        axis = np.abs(vectors).argmax(axis=-1)
        negative = np.take_along_axis(vectors, axis[:, None], axis=-1)[:, 0] < 0
        return np.bincount(2 * axis + negative, minlength=rows)

    def check(self, label: np.ndarray, where: str) -> None:
        """(H, W, 3), each vector of length 1 (to 2 %) or zero."""
        check_shape(label, where, 3)
        if not np.isfinite(label).all():
            raise DataError(f"{where}: a normal is not finite; an invalid pixel is (0, 0, 0)")
        length = np.linalg.norm(label.astype(np.float64), axis=-1)
        wrong = (np.abs(length - 1) > 0.02) & (length > 0)
        if wrong.any():
            row, column = (int(v[0]) for v in np.nonzero(wrong))
            found = f"the normal at row {row}, column {column} has length {length[row, column]:.4g}"
            raise DataError(f"{where}: {found}; it must be 1, or 0 where invalid")

    def values(self, output: torch.Tensor) -> np.ndarray:
        """Unit vectors: float32 (H, W, 3)."""
        return normalize(output.detach().float().cpu(), dim=0).movedim(0, -1).numpy()

    def picture(self, sample: torch.Tensor, reference: torch.Tensor | None = None) -> np.ndarray:
        """Red, green and blue grow with x, y and z."""
        vectors = normalize(sample.float().cpu(), dim=0).movedim(0, -1)
        keep = valid_normals(sample.cpu()[None])[0].numpy()
        colours = np.nan_to_num((vectors.numpy() + 1) * 127.5)
        return blacken(np.round(colours), keep)
