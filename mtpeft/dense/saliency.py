"""Saliency: which pixels belong to the object that stands out. Labels (n, H, W) of 0 and 1, 255 ignored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mtpeft.dense.base import PERCENT_UP, Measure, masked_mean, register_kind, zeros
from mtpeft.dense.colours import blacken
from mtpeft.dense.labelled import IGNORED, ClassKind
from mtpeft.dense.layout import Layout

THRESHOLDS = 255
BETA_SQUARE = 0.3
"""Precision counts more than recall (Achanta et al. 2009)."""


class Saliences(Measure):
    """maxF and mIoU in percent: the best over 255 thresholds, 0/255 to 254/255, on the probability.

    Precision and recall of the salient pixels are averaged over images at each threshold; F = 1.3 P R / (0.3 P + R), and
    maxF is the largest F (Achanta et al. 2009). Precision is 0 where nothing is predicted. Images without a salient pixel
    have no recall and do not count here. mIoU is the largest mean over images of the Jaccard index of the salient pixels
    (Maninis et al. 2019); it is 1 for an image in which nothing is salient and nothing predicted. A pixel is predicted
    salient when its probability is above the threshold.
    """

    def __init__(self) -> None:
        """Sums over images of precision, recall and Jaccard index per threshold, and the numbers of images."""
        super().__init__(curves=zeros(3, THRESHOLDS), images=zeros(2))

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """output (n, 1, H, W) logits, label (n, H, W)."""
        limits = torch.arange(THRESHOLDS, device=output.device) / THRESHOLDS
        for logits, truth in zip(output.detach()[:, 0].float(), label, strict=True):
            valid = truth != IGNORED
            if not bool(valid.any()):
                continue
            passed = torch.bucketize(logits[valid].sigmoid(), limits)  # how many thresholds lie below
            salient = truth[valid] == 1
            hits, others = (_above(passed[chosen]) for chosen in (salient, ~salient))
            total = int(salient.sum())
            union = total + others
            self.totals["curves"][2] += torch.where(union > 0, hits / union.clamp(min=1), 1.0)
            self.totals["images"][1] += 1
            if total:
                self.totals["curves"][0] += hits / (hits + others).clamp(min=1)
                self.totals["curves"][1] += hits / total
                self.totals["images"][0] += 1

    def compute(self) -> dict[str, float | None]:
        """maxF and mIoU."""
        salient, images = self.totals["images"].tolist()
        best, jaccard = None, None
        if salient:
            precision, recall = self.totals["curves"][:2] / salient
            score = (1 + BETA_SQUARE) * precision * recall / (BETA_SQUARE * precision + recall).clamp(min=1e-12)
            best = 100 * float(score.max())
        if images:
            jaccard = 100 * float(self.totals["curves"][2].max() / images)
        return {"maxF": best, "mIoU": jaccard}


def _above(passed: torch.Tensor) -> torch.Tensor:
    """Numbers of thresholds each pixel exceeds -> number of pixels above each threshold, float64 (THRESHOLDS,)."""
    counts = torch.bincount(passed, minlength=THRESHOLDS + 1).cpu().double()
    return counts.flip(0).cumsum(0).flip(0)[1:]


def cross_entropy(
    output: torch.Tensor, label: torch.Tensor, positive: torch.Tensor | float, valid: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy in which pixels of class 1 weigh `positive` and the others 1 - `positive`; mean over valid ones.

    output: logits (n, H, W), label: (n, H, W) of 0 and 1.
    """
    target = (label == 1).float()
    weight = positive * target + (1 - positive) * (1 - target)
    losses = binary_cross_entropy_with_logits(output.float(), target, weight=weight, reduction="none")
    return masked_mean(losses, valid)


class Binary(ClassKind):
    """One logit per pixel against 0 and 1."""

    layout = Layout(torch.uint8, IGNORED, channels=False)
    channels = 1
    num_classes = 2

    def histogram_rows(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        """0 and 1, which have no names."""
        return ("0", "1")

    def values(self, output: torch.Tensor) -> np.ndarray:
        """The probability of 1: float32 (H, W)."""
        return output[0].detach().float().sigmoid().cpu().numpy()

    def picture(self, sample: torch.Tensor, reference: torch.Tensor | None = None) -> np.ndarray:
        """White where 1; of an output the probability as brightness. Ignored pixels are black, the rest at least gray."""
        if sample.ndim == 3:
            bright, keep = sample[0].float().sigmoid().cpu().numpy(), np.ones(sample.shape[1:], dtype=bool)
        else:
            bright, keep = (sample == 1).float().cpu().numpy(), (sample != IGNORED).cpu().numpy()
        return blacken(np.repeat(np.round(40 + 215 * bright)[..., None], 3, axis=2), keep)


@register_kind("saliency")
class Saliency(Binary):
    """Balanced binary cross-entropy: each class weighs the share of the other among the batch's valid pixels.

    In a batch with one class only the loss is therefore zero.
    """

    metrics: ClassVar = {"maxF": PERCENT_UP, "mIoU": PERCENT_UP}
    default_weight = 5.0

    def pixel_loss(self, output: torch.Tensor, label: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with salient pixels weighing the share of the others."""
        return cross_entropy(output[:, 0], label, masked_mean((label != 1).float(), valid), valid)

    def measure(self) -> Measure:
        """Sums of precision, recall and Jaccard index."""
        return Saliences()
