"""Changes of the input that make new domains out of one data set, on uint8 images of the backbone's size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtpeft.errors import ConfigError, UnknownNameError, nearest

Corruption = Callable[[Tensor, Sequence[int]], Tensor]
"""uint8 images (B, C, H, W) and their B indices in the data set -> uint8 (B, C, H, W)."""


@dataclass(frozen=True)
class Rotation:
    """Rotate counter-clockwise by `degrees` about the centre, bilinear, black outside."""

    degrees: float

    def __call__(self, images: Tensor, indices: Sequence[int]) -> Tensor:
        """Images (B, C, H, W) and their indices to images of the same shape."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as vision

        return vision.rotate(images, self.degrees, interpolation=InterpolationMode.BILINEAR)


@dataclass(frozen=True)
class GaussianNoise:
    """Add noise of standard deviation `std` (in units of the full range), the same for an index each time."""

    std: float
    seed: int = 0

    def __call__(self, images: Tensor, indices: Sequence[int]) -> Tensor:
        """Images (B, C, H, W) and their indices to images of the same shape."""
        generator = torch.Generator()
        noise = torch.empty(images.shape)
        for row, index in zip(noise, indices, strict=True):
            generator.manual_seed(self.seed * 1_000_003 + index)
            row.normal_(generator=generator)
        return images.add(noise, alpha=255 * self.std).round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Contrast:
    """Pull every pixel towards the image's mean: mean + `factor` * (pixel - mean)."""

    factor: float

    def __call__(self, images: Tensor, indices: Sequence[int]) -> Tensor:
        """Images (B, C, H, W) and their indices to images of the same shape."""
        pixels = images.float()
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        return torch.lerp(mean, pixels, self.factor).round_().clamp_(0, 255).to(torch.uint8)


_KINDS: dict[str, type[Any]] = {"rotation": Rotation, "noise": GaussianNoise, "contrast": Contrast}


def build_corruption(config: Mapping[str, Any]) -> Corruption | None:
    """From a recipe: `dict(type="rotation", degrees=30)`; type "none" is the data as they are.

    Raises `UnknownNameError` for the type and `ConfigError` for its arguments.
    """
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind == "none" and not arguments:
        return None
    if kind not in _KINDS:
        raise UnknownNameError("domain", kind, [*_KINDS, "none"], "key domains.type")
    fields = dataclasses.fields(_KINDS[kind])
    known = [field.name for field in fields]
    for name in arguments:
        if name not in known:
            raise ConfigError(f"domain {kind!r} takes no argument {name!r}.{nearest(name, known)}")
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in arguments]
    if missing:
        raise ConfigError(f"domain {kind!r} needs the argument {', '.join(missing)}")
    corruption: Corruption = _KINDS[kind](**arguments)
    return corruption
