"""Sizes of images and clips: which ones a backbone takes, and clips as frames."""

from __future__ import annotations

from typing import Any

import torch

from mtpeft.errors import DataError
from mtpeft.manager.protocol import Managed


def check_images(manager: Managed, images: torch.Tensor) -> None:
    """Raise `DataError` for images the backbone does not take."""
    channels, height, width = manager.anatomy.input_size
    if images.ndim == 2 and manager.frozen_part is not None:
        return
    if images.ndim not in (4, 5) or images.shape[1] != channels or not frames_of(images):
        raise DataError(
            f"images have shape {tuple(images.shape)}; the backbone takes (B, {channels}, H, W), or clips "
            f"(B, {channels}, T, H, W)"
        )
    rows, columns = images.shape[-2:]
    if fitting_size(manager, (rows, columns)) == (rows, columns):
        return
    if _takes_its_own_alone(manager):
        raise DataError(f"images are {rows} x {columns}; the backbone takes {height} x {width}: resize them")
    high, wide = getattr(manager.anatomy.stem, "patch_size", (1, 1))
    raise DataError(f"images are {rows} x {columns}; the backbone takes multiples of {high} x {wide}: resize them")


def size_of(manager: Managed, images: torch.Tensor) -> tuple[int, ...]:
    """Height and width of the images, or of those that rows stand for."""
    if images.ndim == 2 and manager.frozen_part is not None:
        return manager.frozen_part.image_size
    return tuple(images.shape[-2:])


def fitting_size(manager: Managed, size: tuple[int, int]) -> tuple[int, int]:
    """The height and width nearest to `size` that the backbone takes, as far as its patch embedding tells: `size` itself,
    the only one it takes, or the nearest multiples of its patches."""
    stem: Any = manager.anatomy.stem
    own = (manager.anatomy.input_size[1], manager.anatomy.input_size[2])
    if size == own or (getattr(stem, "img_size", None) is None and not manager.anatomy.rolled):
        return size
    if _takes_its_own_alone(manager):
        return own
    if getattr(stem, "dynamic_img_pad", False):
        return size
    rows, columns = getattr(stem, "patch_size", (1, 1))
    return max(1, round(size[0] / rows)) * rows, max(1, round(size[1] / columns)) * columns


def _takes_its_own_alone(manager: Managed) -> bool:
    return bool(manager.anatomy.rolled or getattr(manager.anatomy.stem, "strict_img_size", False))


def frames_of(images: torch.Tensor) -> int:
    """Frames of each clip (B, C, T, H, W); 1 for images."""
    return images.shape[2] if images.ndim == 5 else 1


def fold(images: torch.Tensor) -> torch.Tensor:
    """Clips (B, C, T, H, W) -> their frames (B T, C, H, W), clip after clip; images as they are."""
    return images.transpose(1, 2).flatten(0, 1) if images.ndim == 5 else images


def wrong_size(backbone: Any, own: tuple[int, int], given: tuple[int, ...], error: Exception) -> DataError:
    """What is said where the backbone, made for images of size `own`, fails on those `given`."""
    return DataError(
        f"images are {given[0]} x {given[1]}; {type(backbone).__name__}, made for {own[0]} x {own[1]}, cannot "
        f"take that size ({str(error).splitlines()[0]}): resize them"
    )
