"""Random changes of a batch of images, each sample its own, all drawn from one generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY = torch.tensor([0.299, 0.587, 0.114])


def recolour(images: Tensor, generator: torch.Generator, gray: float = 0.7) -> Tensor:
    """(B, 3, H, W) in [0, 1] to the same: a share `gray`, inversion (15 %), blur (25 %), contrast, brightness, noise."""
    images = _where(gray, to_gray(images).expand_as(images), images, generator)
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
    """(B, C, H, W), each by its own zoom (0.7 to 1.15 of it shown), aspect, shift, turn (at most 15 degrees), mirror."""
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


def move_relief(images: Tensor, generator: torch.Generator) -> Tensor:
    """`move` for (B, 4, H, W), colours and relief: the relief's edge stays sharp, nothing of the zeros bleeds in."""
    cover = (images[:, 3:] > 0).float()
    moved = move(torch.cat([images, cover], dim=1), generator)
    relief, cover = moved[:, 3:4], moved[:, 4:]
    return torch.cat([moved[:, :3], torch.where(cover >= 0.5, relief / cover.clamp(min=0.5), 0.0)], dim=1)


def paste(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Lay the object of the next image, shrunk, somewhere on a `share` of the images (B, 4, H, W), colours and relief.

    The object is what has relief; an image without any gives nothing.
    """
    batch = len(images)
    zoom = _uniform(batch, 1.2, 2.5, generator).flatten()
    centre = (torch.rand(batch, 2, generator=generator) * 1.2 - 0.6) * zoom[:, None]
    still = torch.zeros(batch)
    rows = [torch.stack([zoom, still, centre[:, 0]], dim=1), torch.stack([still, zoom, centre[:, 1]], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    # Neither the outermost pixels nor means with them: they hold what lay behind the object, a border that gives it away.
    inner = -F.max_pool2d(-(images[:, 3:] > 0).float(), kernel_size=3, stride=1, padding=1)
    others = torch.cat([images[:, :3], images[:, 3:] * inner], dim=1).roll(1, dims=0)
    objects = F.grid_sample(others, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    chosen = _uniform(batch, 0, 1, generator) < share
    return torch.where(chosen & (objects[:, 3:] > 0), objects, images)


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
