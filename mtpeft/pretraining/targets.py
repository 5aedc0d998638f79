"""What is predicted from a token beside the category: a gray thumbnail and histograms of oriented gradients."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REDUCTION = 4
"""Pixels of the input per pixel of the thumbnail, along a side."""
CELL = 8
"""Side of a histogram's cell in pixels."""
ORIENTATIONS = 8


class Heads(nn.Module):
    """Three small heads on one token."""

    def __init__(self, width: int, size: int, categories: int) -> None:
        """`width` of the token, `size` of the images."""
        super().__init__()
        self.category = nn.Linear(width, categories)
        self.thumbnail = _perceptron(width, (size // REDUCTION) ** 2)
        self.gradients = _perceptron(width, ORIENTATIONS * (size // CELL) ** 2)

    def forward(self, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, width) to logits (B, categories), thumbnails (B, T) and gradient histograms (B, G)."""
        return self.category(token), self.thumbnail(token), self.gradients(token)


def thumbnails(gray: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1] to (B, H * W / 16), means of 4 x 4 pixels, centred and scaled to about unit variance."""
    return (F.avg_pool2d(gray, REDUCTION).flatten(1) - 0.5) / 0.25


def gradient_histograms(gray: Tensor) -> Tensor:
    """(B, 1, H, W) to (B, 8 * H/8 * W/8): unsigned orientations in cells of 8 pixels, standardised in each image.

    The target of MaskFeat (Wei et al., CVPR 2022), with cells of one size and the square root as its compression.
    """
    padded = F.pad(gray, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    angle = torch.atan2(down, across) / math.pi * ORIENTATIONS
    bins = torch.arange(ORIENTATIONS).view(1, -1, 1, 1)
    # Distance on a circle of ORIENTATIONS bins; a pixel is shared by its two nearest bins.
    distance = (angle - bins + ORIENTATIONS / 2) % ORIENTATIONS - ORIENTATIONS / 2
    votes = (1 - distance.abs()).clamp(min=0) * torch.hypot(across, down)
    cells = F.avg_pool2d(votes, CELL).flatten(1).sqrt()
    return F.layer_norm(cells, cells.shape[1:], eps=1e-4)


def _perceptron(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, outputs))
