"""Any numbers per pixel; and the normalised distance to an object's border, which is such a task."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch

from mtpeft.dense.base import Measure, Metric, check_shape, masked_mean, mean_or_none, register_kind, zeros
from mtpeft.dense.colours import blacken, scaled
from mtpeft.dense.labelled import ValueKind
from mtpeft.dense.layout import Layout
from mtpeft.errors import DataError
from mtpeft.options import Count, Positive


def valid_numbers(label: torch.Tensor) -> torch.Tensor:
    """(n, C, H, W) -> (n, H, W): finite and not negative in every channel."""
    return (torch.isfinite(label) & (label >= 0)).all(1)


class Deviations(Measure):
    """Root mean square and mean absolute difference over channels and valid pixels of all images together."""

    def __init__(self) -> None:
        """The number of values, and the sums of squared and absolute differences."""
        super().__init__(sums=zeros(3))

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """output and label (n, C, H, W)."""
        valid = valid_numbers(label)[:, None].expand_as(label)
        difference = output.detach()[valid].cpu().double() - label[valid].cpu().double()
        sums = [torch.ones_like(difference), difference.square(), difference.abs()]
        self.totals["sums"] += torch.stack([s.sum() for s in sums])

    def compute(self) -> dict[str, float | None]:
        """rmse and mae."""
        count, squares, absolute = self.totals["sums"]
        square = mean_or_none(squares, count)
        return {"rmse": None if square is None else math.sqrt(square), "mae": mean_or_none(absolute, count)}


@register_kind("regression")
class Regression(ValueKind):
    """Numbers from 0 to `high`; labels float (n, channels, H, W), negative and non-finite pixels invalid. L1."""

    layout = Layout(torch.float32, -1.0, channels=True)
    metrics: ClassVar = {"rmse": Metric("", False), "mae": Metric("", False)}

    def __init__(self, channels: Count = 1, high: Positive | None = None, metric: str | None = None) -> None:
        """`channels` numbers per pixel; labels above `high`, if one is given, are wrong."""
        super().__init__(metric)
        self.channels, self.high = channels, math.inf if high is None else high

    def valid(self, label: torch.Tensor) -> torch.Tensor:
        """Finite and not negative."""
        return valid_numbers(label)

    def pixel_loss(self, output: torch.Tensor, label: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Mean absolute difference."""
        truth = torch.where(valid[:, None], label, 0.0)  # not a number would leave its mark on the gradient
        return masked_mean((output.float() - truth).abs(), valid)

    def measure(self) -> Measure:
        """Sums of differences."""
        return Deviations()

    def check(self, label: np.ndarray, where: str) -> None:
        """(H, W) or (H, W, channels), at most `high` where finite."""
        check_shape(label, where, None if self.channels == 1 and label.ndim == 2 else self.channels)
        found = label[np.isfinite(label)]
        if found.size and found.max() > self.high:
            raise DataError(
                f"{where}: value {found.max():.4g} is out of range: 0 to {self.high:g}, negative for invalid"
            )

    def picture(self, sample: torch.Tensor, reference: torch.Tensor | None = None) -> np.ndarray:
        """The mean over channels, small is dark, over the range of `reference`; negative outputs are darkest."""
        values = sample.float().cpu()
        keep = torch.isfinite(values).all(0) if reference is not None else valid_numbers(values[None])[0]
        guide = values if reference is None else reference.float().cpu()
        known = guide.mean(0)[valid_numbers(guide[None])[0]]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        return blacken(scaled(np.nan_to_num(values.mean(0).numpy()), low, high), keep.numpy())


@register_kind("distance")
class Distance(Regression):
    """Distance to the border of the object a pixel belongs to, from 0 at the border to 1; negative is invalid."""

    def __init__(self, metric: str | None = None) -> None:
        """One output."""
        super().__init__(1, 1.0, metric)
