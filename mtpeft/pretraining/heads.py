"""The heads that are trained with a backbone and thrown away: their losses make its features.

A plain transformer answers from single tokens, a pyramid from the maps of all its stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mtpeft.pretraining.augment import to_gray
from mtpeft.pretraining.targets import (
    CELL,
    ORIENTATIONS,
    REDUCTION,
    gradient_histograms,
    orientation_votes,
    pooled_votes,
    relief_error,
    thumbnails,
)

FUSED = 32
"""Channels that the maps of a pyramid's stages are projected to before they are added."""


@dataclass(frozen=True)
class Batch:
    """`images` as the backbone sees them and `original` before recolouring, both (B, 3, S, S) in [0, 1].

    `labels` int64 (B,); `relief` (B, S, S) in [0, 1] (0: nothing), or None when the images have none.
    """

    images: Tensor
    original: Tensor
    labels: Tensor
    relief: Tensor | None


class TokenHeads(nn.Module):
    """Three small heads on one token, read from the class token and from the mean of the patch tokens.

    The second reading makes the early steps quicker.
    """

    def __init__(self, width: int, size: int, categories: int) -> None:
        """`width` of the token, `size` of the images."""
        super().__init__()
        self.category = nn.Linear(width, categories)
        self.thumbnail = _perceptron(width, (size // REDUCTION) ** 2)
        self.gradients = _perceptron(width, ORIENTATIONS * (size // CELL) ** 2)

    def losses(self, backbone: Any, batch: Batch, smoothing: float) -> list[dict[str, Tensor]]:
        """Named errors of each of the two readings, and the share of right categories as `accuracy`."""
        shapes = gradient_histograms(to_gray(batch.original))
        small = thumbnails(to_gray(batch.images))
        tokens = backbone.forward_features((batch.images - 0.5) / 0.5)
        readings = []
        for token in (tokens[:, 1:].mean(dim=1), tokens[:, 0]):
            numbers = _classified(self.category(token), batch.labels, smoothing)
            numbers["thumbnail"] = F.mse_loss(self.thumbnail(token), small)
            numbers["gradients"] = F.mse_loss(self.gradients(token), shapes)
            readings.append(numbers)
        return readings


class PyramidHeads(nn.Module):
    """Linear heads on every stage (thumbnail and gradients), on the pooled output (category) and on all stages together.

    Coarse stages answer in the detail of the fine ones, several cells per token. The relief is read at full size from
    the sum of the projected, enlarged maps, as in the decoder of SegFormer (Xie et al., NeurIPS 2021).
    """

    def __init__(self, stages: Sequence[tuple[int, int]], categories: int) -> None:
        """`stages`: width and stride of each, finest first."""
        super().__init__()
        finest = stages[0][1]
        self.category = nn.Linear(stages[-1][0], categories)
        self.thumbnail = nn.ModuleList(_cells(width, 1, max(1, stride // REDUCTION)) for width, stride in stages)
        self.gradients = nn.ModuleList(_cells(width, ORIENTATIONS, max(1, stride // CELL)) for width, stride in stages)
        self.fused = nn.ModuleList(nn.Conv2d(width, FUSED, 1) for width, _ in stages)
        self.relief = nn.Sequential(nn.GELU(), _cells(FUSED, 2, finest))

    def losses(self, backbone: Any, batch: Batch, smoothing: float) -> list[dict[str, Tensor]]:
        """Named errors, those of the stages averaged, and the share of right categories as `accuracy`."""
        final, maps = backbone.forward_intermediates((batch.images - 0.5) / 0.5)
        numbers = _classified(self.category(backbone.forward_head(final, pre_logits=True)), batch.labels, smoothing)
        gray, votes = to_gray(batch.images), orientation_votes(to_gray(batch.original))
        side = gray.shape[-1]
        redrawn = [head(part) for head, part in zip(self.thumbnail, maps, strict=True)]
        histograms = [head(part) for head, part in zip(self.gradients, maps, strict=True)]
        small = [F.mse_loss(part.flatten(1), thumbnails(gray, side // part.shape[-1])) for part in redrawn]
        shapes = [F.mse_loss(part.flatten(1), pooled_votes(votes, side // part.shape[-1])) for part in histograms]
        numbers["thumbnail"] = torch.stack(small).mean()
        numbers["gradients"] = torch.stack(shapes).mean()
        if batch.relief is not None:
            size = maps[0].shape[2:]
            projected = [project(part) for project, part in zip(self.fused, maps, strict=True)]
            fused = projected[0]
            for part in projected[1:]:
                fused = fused + F.interpolate(part, size, mode="bilinear", align_corners=False)
            numbers["relief"] = relief_error(self.relief(fused), batch.relief)
        return [numbers]


def build_heads(backbone: Any, size: int, categories: int) -> TokenHeads | PyramidHeads:
    """The heads for a `backbone` that reads images of `size` x `size`."""
    if isinstance(backbone, VisionTransformer):
        return TokenHeads(int(backbone.num_features), size, categories)
    return PyramidHeads([(stage["num_chs"], stage["reduction"]) for stage in backbone.feature_info], categories)


def _classified(logits: Tensor, labels: Tensor, smoothing: float) -> dict[str, Tensor]:
    return {
        "entropy": F.cross_entropy(logits, labels, label_smoothing=smoothing),
        "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
    }


def _cells(width: int, channels: int, factor: int) -> nn.Sequential:
    """A linear map of each token (B, width, H, W) to `factor` x `factor` cells: (B, channels, H * factor, W * factor)."""
    return nn.Sequential(nn.Conv2d(width, channels * factor**2, 1), nn.PixelShuffle(factor))


def _perceptron(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, outputs))
