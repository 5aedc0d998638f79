"""Depth in metres. Labels float (n, 1, H, W); zero, negative and non-finite pixels are invalid."""

from __future__ import annotations

import math
import warnings
from typing import ClassVar

import numpy as np
import torch

from mtpeft.dense.base import PERCENT_UP, Measure, Metric, check_shape, masked_mean, register_kind, zeros
from mtpeft.dense.colours import blacken, scaled
from mtpeft.dense.labelled import ValueKind
from mtpeft.dense.layout import Layout
from mtpeft.errors import DataError
from mtpeft.options import Positive

FLOOR = 1e-3
"""Metres to which predictions are raised before ratios and logarithms are taken."""
SUMS = ("count", "square", "relative", "log_square", "delta1", "delta2", "delta3")


class DepthErrors(Measure):
    """RMSE (m), AbsRel (%), log RMSE (natural logarithm) and the shares (%) within factors 1.25, 1.25^2, 1.25^3.

    Eigen et al. 2014. Means are over all valid pixels of all images together, not over images.
    """

    def __init__(self) -> None:
        """The number of pixels and the sums of `SUMS`."""
        super().__init__(sums=zeros(len(SUMS)))

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """output and label (n, 1, H, W) in metres."""
        valid = valid_depth(label)
        predicted, truth = output.detach()[valid].cpu().double(), label[valid].cpu().double()
        raised = predicted.clamp(min=FLOOR)
        ratio = torch.maximum(raised / truth, truth / raised)
        sums = [
            torch.ones_like(truth),
            (predicted - truth).square(),
            (predicted - truth).abs() / truth,
            (raised.log() - truth.log()).square(),
            *((ratio < 1.25**power) for power in (1, 2, 3)),
        ]
        self.totals["sums"] += torch.stack([s.sum(dtype=torch.float64) for s in sums])

    def compute(self) -> dict[str, float | None]:
        """rmse, abs_rel, log_rmse, delta1, delta2, delta3."""
        count = float(self.totals["sums"][0])
        if count == 0:
            return dict.fromkeys(Depth.metrics)
        means = dict(zip(SUMS, (self.totals["sums"] / count).tolist(), strict=True))
        return {
            "rmse": math.sqrt(means["square"]),
            "abs_rel": 100 * means["relative"],
            "log_rmse": math.sqrt(means["log_square"]),
            **{name: 100 * means[name] for name in ("delta1", "delta2", "delta3")},
        }


def valid_depth(label: torch.Tensor) -> torch.Tensor:
    """Finite and positive."""
    return torch.isfinite(label) & (label > 0)


@register_kind("depth")
class Depth(ValueKind):
    """Metric depth by one output; L1 in metres."""

    layout = Layout(torch.float32, 0.0, channels=True)
    bins = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    bin_unit = "m"
    channels = 1
    metrics: ClassVar = {
        "rmse": Metric("m", False),
        "abs_rel": Metric("%", False),
        "log_rmse": Metric("", False),
        "delta1": PERCENT_UP,
        "delta2": PERCENT_UP,
        "delta3": PERCENT_UP,
    }

    def __init__(self, max_depth: Positive = 100.0, metric: str | None = None) -> None:
        """`max_depth`: depths beyond it (m) are taken for another unit, and warned of."""
        super().__init__(metric)
        self.max_depth = max_depth

    def valid(self, label: torch.Tensor) -> torch.Tensor:
        """Finite and positive."""
        return valid_depth(label)[:, 0]

    def pixel_loss(self, output: torch.Tensor, label: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Mean absolute difference in metres."""
        truth = torch.where(valid, label[:, 0], 0.0)  # not a number would leave its mark on the gradient
        return masked_mean((output[:, 0].float() - truth).abs(), valid)

    def measure(self) -> Measure:
        """Sums of errors."""
        return DepthErrors()

    @classmethod
    def enlarged(cls, label: np.ndarray, factor: float) -> np.ndarray:
        """Divided by `factor`: what looks larger is nearer."""
        return label / np.asarray(factor, dtype=label.dtype)

    def check(self, label: np.ndarray, where: str) -> None:
        """Numbers (H, W); warns with the range where they look like millimetres or centimetres."""
        check_shape(label, where)
        if not np.issubdtype(label.dtype, np.floating):
            raise DataError(f"{where}: the depth is {label.dtype}; it must be floating-point, in metres")
        known = label[np.isfinite(label) & (label > 0)]
        if known.size and known.max() > self.max_depth:
            unit, factor = ("millimetres", 1000) if known.max() > 10 * self.max_depth else ("centimetres", 100)
            found = f"{where}: depth from {known.min():.4g} to {known.max():.4g}"
            remedy = f"this looks like {unit}, and must be metres: divide by {factor}"
            warnings.warn(f"{found}; {remedy}", UserWarning, stacklevel=2)

    def picture(self, sample: torch.Tensor, reference: torch.Tensor | None = None) -> np.ndarray:
        """Near is dark, far is bright, over the range of `reference`."""
        values = sample[0].float().cpu().numpy()
        guide = values if reference is None else reference[0].float().cpu().numpy()
        known = guide[np.isfinite(guide) & (guide > 0)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        keep = np.isfinite(values) & (values > 0)
        return blacken(scaled(np.where(keep, values, low), low, high), keep)
