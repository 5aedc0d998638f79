"""Maps brought to the size of the images."""

from __future__ import annotations

import torch
from torch import nn


def enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, corners not aligned."""
    if maps.shape[2:] == size:
        return maps
    return nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def to_image(maps: torch.Tensor, covered: tuple[int, int], size: tuple[int, int] | None = None) -> torch.Tensor:
    """Maps (B, C, H, W) over `covered` pixels -> (B, C, *size), or (B, C, *covered) without a size.

    Backbones pad at the right and at the bottom: what lies outside the image is cut off.
    """
    if size is None:
        return enlarge(maps, covered)
    reached = max(covered[0], size[0]), max(covered[1], size[1])  # a map that falls short is taken to cover the image
    return enlarge(maps, reached)[:, :, : size[0], : size[1]]


def reach(maps: torch.Tensor, stride: int) -> tuple[int, int]:
    """The pixels that cells `stride` wide cover, (height, width)."""
    return maps.shape[2] * stride, maps.shape[3] * stride
