"""EVP: the image is shrunk, and a learned frame of pixels takes the place this leaves.

Wu et al., "Unleashing the Power of Visual Prompting At the Pixel Level", TMLR 2024 (arXiv 2212.10556), section 3. Image and
prompt do not overlap, and both are normalised together: the frame is in units of pixels from 0 to 1, starts black, and is
not clamped. Images arrive normalised, so that mean and standard deviation are undone on the frame, not on the image.

The images that come are shrunk, bicubic; the authors shrink the files' pictures to K and pad them, which differs in the
first of two resizings. A frame fits images of one size, the one the model was made for; others are refused. The paper trains
by gradients of norm 1 (SGD of learning rate 70, no momentum, no weight decay; `clip` far below the gradient's norm does the
same where nothing else is trained) with flipped and cropped images, and reads ImageNet's classes by a list in place of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.prompt.pixel_frame import check_frame, framed, largest_frame
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive


@dataclass(frozen=True, kw_only=True)
class EVPConfig(MethodConfig):
    """`prompt_size` p, the width of the frame: 30 of 224 pixels, so that the image has K = 164.

    `mean` and `std` by channel, that images are normalised by; None for those of the model's own images.
    """

    sites: Sites = ("pixels",)
    prompt_size: Count = 30
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None


@register(
    "evp",
    EVPConfig,
    paper="Wu et al., TMLR 2024 (arXiv 2212.10556)",
    properties=Properties(structure_preserving=True, identity_at_init=False),
    weights="12 * prompt_size * (s - prompt_size) where s = p * n ** 0.5",
)
class EVP(SiteModule):
    """Normalise(pad(resize_K(image)) + delta), delta zero inside the frame and zero at the start."""

    def __init__(self, config: EVPConfig, site: Site) -> None:
        super().__init__(config, site)
        (height, width), p, c = site.image_size, config.prompt_size, site.in_channels
        self.up, self.down = (nn.Parameter(torch.zeros(c, p, width)) for _ in range(2))
        self.left, self.right = (nn.Parameter(torch.zeros(c, height - 2 * p, p)) for _ in range(2))
        for name, values in zip(("mean", "std"), normalisation(config, site), strict=True):
            exact = torch.tensor(values, dtype=torch.float64)  # until the model gives it its own type
            self.register_buffer(name, exact.view(-1, 1, 1), persistent=False)
        self.mean: torch.Tensor
        self.std: torch.Tensor

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Images y (B, C, H, W) -> the same shape."""
        p, (height, width) = self.up.shape[1], y.shape[-2:]
        check_frame((height, width), self.up, self.left, "evp")
        inner = height - 2 * p, width - 2 * p
        small = nn.functional.interpolate(y, inner, mode="bicubic", antialias=True)
        mean, std = self.mean.to(self.up.dtype), self.std.to(self.up.dtype)
        frame = framed(*((strip - mean) / std for strip in (self.up, self.down, self.left, self.right)))
        return nn.functional.pad(small, (p, p, p, p)) + frame

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """The frame has to leave some of the image, and there is a mean for every channel."""
        height, width = sites[0].image_size
        if config.prompt_size > (most := largest_frame(height, width)):
            return f"prompt_size={config.prompt_size} does not fit images of {height} x {width}; give 1 to {most}"
        channels = sites[0].in_channels
        for name, values in zip(("mean", "std"), normalisation(config, sites[0]), strict=True):
            if len(values) != channels:
                return f"{name} has {len(values)} values, and images have {channels} channels"
        return None


def normalisation(config: EVPConfig, site: Site) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that images are normalised by: the options', or the model's own."""
    mean, std = site.normalisation
    return mean if config.mean is None else config.mean, std if config.std is None else config.std
