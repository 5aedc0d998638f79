"""What is predicted beside the category: a gray thumbnail, histograms of oriented gradients, the relief of objects."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

REDUCTION = 4
"""Pixels of the input per pixel of the thumbnail, along a side."""
CELL = 8
"""Side of a histogram's cell in pixels."""
ORIENTATIONS = 8
NEARNESS = 0.2
"""About the standard deviation of the nearness inside of an object's bounding sphere."""
SLOPE = 4.0
"""Weight of the errors of the slopes."""


def thumbnails(gray: Tensor, reduction: int = REDUCTION) -> Tensor:
    """(B, 1, H, W) in [0, 1] to (B, H * W / 16), means of 4 x 4 pixels, centred and scaled to about unit variance."""
    return (F.avg_pool2d(gray, reduction).flatten(1) - 0.5) / 0.25


def gradient_histograms(gray: Tensor) -> Tensor:
    """(B, 1, H, W) to (B, 8 * H/8 * W/8): unsigned orientations in cells of 8 pixels, standardised in each image.

    The target of MaskFeat (Wei et al., CVPR 2022), with cells of one size and the square root as its compression.
    """
    return pooled_votes(orientation_votes(gray), CELL)


def orientation_votes(gray: Tensor) -> Tensor:
    """(B, 1, H, W) to (B, 8, H, W): each pixel's gradient length, shared by its two nearest unsigned orientations."""
    padded = F.pad(gray, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    angle = torch.atan2(down, across) / math.pi * ORIENTATIONS
    bins = torch.arange(ORIENTATIONS).view(1, -1, 1, 1)
    # Distance on a circle of ORIENTATIONS bins.
    distance = (angle - bins + ORIENTATIONS / 2) % ORIENTATIONS - ORIENTATIONS / 2
    return (1 - distance.abs()).clamp(min=0) * torch.hypot(across, down)


def pooled_votes(votes: Tensor, cell: int) -> Tensor:
    """(B, 8, H, W) to (B, 8 * H/cell * W/cell): square roots of the cells' means, standardised in each image."""
    cells = F.avg_pool2d(votes, cell).flatten(1).sqrt()
    return F.layer_norm(cells, cells.shape[1:], eps=1e-4)


def relief_error(predicted: Tensor, relief: Tensor) -> Tensor:
    """Error of `predicted` (B, 2, H, W), logits of the outline and nearness, against `relief` (B, H, W), 0 for nothing.

    Cross-entropy of the outline, and inside of it the absolute errors of the nearness and of its differences between
    neighbouring pixels (the slopes of the surface), in units that make the three alike. Images without any relief do
    not count; 0 when no image has any.
    """
    cover = relief > 0
    seen = cover.flatten(1).any(dim=1)
    if not seen.any():
        return predicted.sum() * 0
    logits, nearness = predicted[seen].unbind(dim=1)
    cover, error = cover[seen], nearness - (relief[seen] - 0.5) / NEARNESS
    outline = F.binary_cross_entropy_with_logits(logits, cover.float())
    across = error.diff(dim=2)[cover[:, :, 1:] & cover[:, :, :-1]].abs()
    down = error.diff(dim=1)[cover[:, 1:] & cover[:, :-1]].abs()
    return outline + error[cover].abs().mean() + SLOPE * torch.cat([across, down]).mean()
