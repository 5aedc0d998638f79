"""Convpass: a 1x1 - 3x3 - 1x1 convolutional bottleneck in parallel to attention and to the MLP.

Jie and Deng, "Convolutional Bypasses Are Better Vision Transformer Adapters", 2022 (arXiv 2207.07039), section 3.2.
Fed with the sub-layer's normalised input; class and register tokens go through the same convolution as 1x1 maps.
`sites=("parallel_attn_ln",)` is the paper's Convpass-attn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import affine_factors
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import register
from mtpeft.options import Count, Positive, Rate


@dataclass(frozen=True, kw_only=True)
class ConvpassConfig(MethodConfig):
    """`bottleneck_dim` h; `scale` s (the paper picks 0.01 ... 100 per task); `conv_init` identity or xavier."""

    sites: Sites = ("parallel_attn_ln", "parallel_mlp_ln")
    bottleneck_dim: Count = 8
    scale: Positive = 1.0
    dropout: Rate = 0.1
    conv_init: Literal["identity", "xavier"] = "identity"


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


@register(
    "convpass",
    ConvpassConfig,
    paper="Jie and Deng, 2022 (arXiv 2207.07039)",
    weights="2 * L * (2 * d * bottleneck_dim + 9 * bottleneck_dim ** 2 + 2 * bottleneck_dim + d)",
)
class Convpass(SiteModule):
    """y + s * W_up drop(g(conv3x3(g(W_down x)))), g QuickGELU; W_up starts at zero."""

    factored = True

    def __init__(self, config: ConvpassConfig, site: Site) -> None:
        super().__init__(config, site)
        hidden = config.bottleneck_dim
        self.site, self.scale = site, config.scale
        self.down = nn.Linear(site.dim, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.up = nn.Linear(hidden, site.dim)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.down.weight)
        if config.conv_init == "identity":
            nn.init.dirac_(self.conv.weight)
        else:
            nn.init.xavier_uniform_(self.conv.weight)
        for tensor in (self.down.bias, self.conv.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)  # type: ignore[arg-type]

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, P + HW, d) or (B, H, W, d) -> [h, 1] (..., h + 1), h the hidden units, and s [W_up, b_up]^T (h + 1, d)."""
        prefix, patches = self.site.split_prefix(quick_gelu(self.down(x)))  # (B, P, h), (B, h, H, W)
        patches = self.conv(patches).flatten(2).transpose(1, 2)
        if prefix.shape[1]:
            # on a 1x1 map with zero padding only the centre of the kernel acts
            prefix = nn.functional.linear(prefix, self.conv.weight[:, :, 1, 1], self.conv.bias)
            patches = torch.cat([prefix, patches], dim=1)
        hidden = self.dropout(quick_gelu(patches)).view(*x.shape[:-1], -1)
        left, right = affine_factors(hidden, self.up.weight, self.up.bias)
        return left, right * self.scale
