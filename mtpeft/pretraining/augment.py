"""Random changes of a batch of images, each sample its own, all drawn from one generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY = torch.tensor([0.299, 0.587, 0.114])


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) in [0, 1] to the same: gray (70 %), inversion (15 %), blur (25 %), contrast, brightness, noise."""
    images = _where(0.7, to_gray(images).expand_as(images), images, generator)
    images = _where(0.15, 1 - images, images, generator)
    images = _where(0.25, _blur(images), images, generator)
    batch = len(images)
    contrast = _uniform(batch, 0.6, 1.4, generator)
    brightness = _uniform(batch, -0.15, 0.15, generator)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - middle) * contrast + middle + brightness
    level = _uniform(batch, 0.0, 0.04, generator)
    return (images + level * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def to_gray(images: Tensor) -> Tensor:
    """(B, 3, H, W) to the luma (B, 1, H, W) of ITU-R BT.601."""
    return (images * GRAY.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random zoom (0.7 to 1.15 of the image shown), aspect, shift, turn (15 degrees at most) and mirror."""
    batch = len(images)
    angle = _uniform(batch, -0.26, 0.26, generator).flatten()
    zoom = _uniform(batch, 0.7, 1.15, generator).flatten()
    aspect = _uniform(batch, -0.15, 0.15, generator).flatten().exp()
    mirror = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    shift = (torch.rand(batch, 2, generator=generator) - 0.5) * 0.3
    across, down = zoom * aspect, zoom / aspect
    rows = [
        torch.stack([across * mirror * angle.cos(), -across * angle.sin(), shift[:, 0]], dim=1),
        torch.stack([down * mirror * angle.sin(), down * angle.cos(), shift[:, 1]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _blur(images: Tensor) -> Tensor:
    """Binomial 3 x 3 blur."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).expand(images.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])


def _uniform(batch: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(B, 1, 1, 1) numbers in [low, high)."""
    return torch.rand(batch, 1, 1, 1, generator=generator) * (high - low) + low


def _where(share: float, changed: Tensor, same: Tensor, generator: torch.Generator) -> Tensor:
    """`changed` for a random `share` of the samples."""
    return torch.where(_uniform(len(same), 0, 1, generator) < share, changed, same)
