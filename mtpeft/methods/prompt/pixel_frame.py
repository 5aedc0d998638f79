"""A frame of pixels: four strips around a picture, put together as one image."""

from __future__ import annotations

import torch

from mtpeft.errors import DataError


def framed(up: torch.Tensor, down: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Strips up and down (C, p, W), left and right (C, H - 2p, p) -> the image (C, H, W), zero inside the frame."""
    middle = left.new_zeros(left.shape[0], left.shape[1], up.shape[2] - 2 * left.shape[2])
    return torch.cat([up, torch.cat([left, middle, right], dim=2), down], dim=1)


def check_frame(size: tuple[int, int], up: torch.Tensor, left: torch.Tensor, method: str) -> None:
    """Raise `DataError` for images of another height and width than the frame of `method` is for."""
    own = left.shape[1] + 2 * up.shape[1], up.shape[2]
    if size != own:
        raise DataError(
            f"images are {size[0]} x {size[1]}, but the frame of `{method}` is for {own[0]} x {own[1]}: resize them"
        )


def largest_frame(height: int, width: int) -> int:
    """The widest frame that leaves a pixel of such images."""
    return (min(height, width) - 1) // 2
