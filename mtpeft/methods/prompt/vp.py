"""VP: a learned frame or patch of pixels added to every normalised image.

Bahng et al., "Exploring Visual Prompts for Adapting Large-Scale Models", 2022 (arXiv 2203.17274), section 3.2.
Training wants the authors' settings: SGD, learning rate 40, momentum 0.9, no weight decay.
A frame fits images of one size, the one the model was made for; others are refused. A patch fits any image it is not larger than.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.errors import DataError
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.prompt.pixel_frame import check_frame, framed, largest_frame
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count


@dataclass(frozen=True, kw_only=True)
class VPConfig(MethodConfig):
    """`prompt_size` p in pixels; `template` padding (a frame p wide), fixed_patch (p x p, top left) or random_patch.

    `random_patch` draws one position per forward, at test time too, as the authors do.
    """

    sites: Sites = ("pixels",)
    prompt_size: Count = 30
    template: Literal["padding", "fixed_patch", "random_patch"] = "padding"


@register(
    "vp",
    VPConfig,
    paper="Bahng et al., 2022 (arXiv 2203.17274)",
    properties=Properties(structure_preserving=True, identity_at_init=False),
    weights="12 * prompt_size * (s - prompt_size) where s = p * n ** 0.5",
)
class VP(SiteModule):
    """x + prompt, no clamp; every prompt pixel starts as N(0, 1)."""

    def __init__(self, config: VPConfig, site: Site) -> None:
        super().__init__(config, site)
        (height, width), p, c = site.image_size, config.prompt_size, site.in_channels
        self.template = config.template
        if config.template == "padding":
            self.up, self.down = (nn.Parameter(torch.randn(c, p, width)) for _ in range(2))
            self.left, self.right = (nn.Parameter(torch.randn(c, height - 2 * p, p)) for _ in range(2))
        else:
            self.patch = nn.Parameter(torch.randn(c, p, p))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Images y (B, C, H, W) -> the same shape."""
        return y + self.prompt(*y.shape[-2:])

    def prompt(self, height: int, width: int) -> torch.Tensor:
        """The prompt as an image (C, H, W), zero where there is none. Raises `DataError` where it does not fit."""
        if self.template == "padding":
            check_frame((height, width), self.up, self.left, "vp")
            return framed(self.up, self.down, self.left, self.right)
        p = self.patch.shape[-1]
        if p > min(height, width):
            raise DataError(f"images are {height} x {width}, but the patch of `vp` has a side of {p}: resize them")
        top = left = 0
        if self.template == "random_patch":
            top, left = (random.randrange(size - p + 1) for size in (height, width))
        return nn.functional.pad(self.patch, (left, width - left - p, top, height - top - p))

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """The prompt has to fit the image."""
        height, width = sites[0].image_size
        most = largest_frame(height, width) if config.template == "padding" else min(height, width)
        if config.prompt_size > most:
            return f"prompt_size={config.prompt_size} does not fit images of {height} x {width}; give 1 to {most}"
        return None
