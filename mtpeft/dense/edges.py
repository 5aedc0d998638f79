"""Edges of objects. Labels (n, H, W) of 0 and 1, 255 ignored; lines may be thick, they are thinned to be compared."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from mtpeft.dense.base import PERCENT_UP, Measure, register_kind, zeros
from mtpeft.dense.labelled import IGNORED
from mtpeft.dense.matching import average_precision, match_counts, scores
from mtpeft.dense.saliency import Binary, cross_entropy
from mtpeft.options import Count, Share


class EdgeMatches(Measure):
    """odsF, oisF and AP in percent (Martin et al. 2004; Arbelaez et al. 2011).

    Pixels are matched one to one at each threshold (`mtpeft.dense.matching`). odsF is the best F over thresholds of the
    counts summed over images; oisF takes each image's best threshold before summing; AP is the mean
    over recalls of the best precision that reaches them. None where no image has an edge.
    """

    def __init__(self, max_distance: float, thresholds: int) -> None:
        """Sums over images: matched and predicted pixels per threshold, the same at each image's best, true pixels."""
        super().__init__(counts=zeros(thresholds, 2), best=zeros(2), true=zeros(1))
        self.max_distance = max_distance
        self.thresholds = np.arange(1, thresholds + 1) / (thresholds + 1)

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """output (n, 1, H, W) logits, label (n, H, W)."""
        probability = output.detach()[:, 0].float().cpu().double().sigmoid().numpy()
        for strength, truth in zip(probability, label.cpu().numpy(), strict=True):
            valid = truth != IGNORED
            counts, true = match_counts(strength, truth == 1, valid, self.thresholds, self.max_distance)
            _, _, measure = scores(counts[:, 0], counts[:, 1], np.array(true))
            self.totals["counts"] += torch.from_numpy(counts)
            best = np.where(measure == measure.max(), counts[:, 1], np.inf).argmin()  # of equals the least predicted
            self.totals["best"] += torch.from_numpy(counts[best])
            self.totals["true"] += true

    def compute(self) -> dict[str, float | None]:
        """odsF, oisF and AP."""
        true = self.totals["true"].numpy()
        if true[0] == 0:
            return dict.fromkeys(Edges.metrics)
        counts, best = self.totals["counts"].numpy(), self.totals["best"].numpy()
        precision, recall, measure = scores(counts[:, 0], counts[:, 1], true)
        of_best = scores(best[:1], best[1:], true)[2]
        area = average_precision(precision, recall)
        return {"odsF": 100 * float(measure.max()), "oisF": 100 * float(of_best[0]), "AP": 100 * area}


@register_kind("edges")
class Edges(Binary):
    """Binary cross-entropy in which edge pixels weigh 0.95 and the others 0.05, as published multi-task protocols do.

    `max_distance` is a fraction of the image's diagonal: 0.0075 for BSDS and PASCAL, 0.011 for NYUD-v2. On images of less
    than 134 (91) pixels along the diagonal that is less than one pixel, so only pixels in the same place match.
    """

    metrics: ClassVar = {"odsF": PERCENT_UP, "oisF": PERCENT_UP, "AP": PERCENT_UP}
    default_weight = 50.0

    def __init__(
        self,
        max_distance: Share = 0.0075,
        thresholds: Count = 99,
        positive_weight: Share = 0.95,
        metric: str | None = None,
    ) -> None:
        """`thresholds` lie evenly inside 0 to 1; fewer are faster and coarser."""
        super().__init__(metric)
        self.max_distance, self.thresholds, self.positive_weight = max_distance, thresholds, positive_weight

    def pixel_loss(self, output: torch.Tensor, label: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with fixed weights."""
        return cross_entropy(output[:, 0], label, self.positive_weight, valid)

    def measure(self) -> Measure:
        """Sums of matches."""
        return EdgeMatches(self.max_distance, self.thresholds)
