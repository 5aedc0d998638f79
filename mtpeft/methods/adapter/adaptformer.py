"""AdaptFormer: a scaled bottleneck in parallel to the MLP of every block.

Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022
(arXiv 2205.13535), section 3.2, equations 2 and 3. The authors' code feeds the adapter with the block's stream before
LN2, which is the default here; `adapter_ln="in"` normalises it by a LayerNorm of the adapter's own.

LAE's adapter (Gao et al., ICCV 2023) is the same beside attention, with GELU and a trained scale that starts at 1:
`sites=["parallel_attn_ln"], bottleneck_dim=5, activation="gelu", scale=1.0, learnable_scale=True, dropout=0.0`, in the first
five blocks of ViT-B/16 42,270 weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import BESIDE, Activation, Bottleneck, bottleneck_width
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import register
from mtpeft.options import Count, Positive, Rate


@dataclass(frozen=True, kw_only=True)
class AdaptFormerConfig(MethodConfig):
    """`bottleneck_dim` (64 in the paper, 8 in the VTAB tables); `reduction` sets it to width / reduction instead.

    `scale` s, `dropout` on the bottleneck, `adapter_ln` one of none, in, out; `learnable_scale` trains s from `scale` on.
    `activation` relu, gelu or silu.
    """

    sites: Sites = ("parallel_mlp",)
    bottleneck_dim: Count = 64
    reduction: Count | None = None
    scale: Positive = 0.1
    dropout: Rate = 0.1
    adapter_ln: Literal["none", "in", "out"] = "none"
    learnable_scale: bool = False
    activation: Activation = "relu"


@register(
    "adaptformer",
    AdaptFormerConfig,
    paper="Chen et al., NeurIPS 2022 (arXiv 2205.13535)",
    weights="L * (2 * d * bottleneck_dim + bottleneck_dim + d)",
)
class AdaptFormer(SiteModule):
    """y + s * (W_up drop(act(W_down x + b_d)) + b_u), zero at the start; act is ReLU in the paper."""

    beside: ClassVar[Mapping[str, int | None]] = BESIDE

    def __init__(self, config: AdaptFormerConfig, site: Site) -> None:
        super().__init__(config, site)
        hidden = bottleneck_width(site, config.bottleneck_dim, config.reduction)
        self.adapter = Bottleneck(site.dim, hidden, config.activation, config.dropout)
        self.norm = None if config.adapter_ln == "none" else nn.LayerNorm(site.dim)
        self.scale = nn.Parameter(torch.tensor(config.scale)) if config.learnable_scale else config.scale
        self.factored = config.adapter_ln != "out"

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., d) -> s [h, 1] (..., r + 1) with h the hidden units, and [W_up, b_u]^T (r + 1, d)."""
        left, right = self.adapter.factors(x if self.norm is None else self.norm(x))
        return left * self.scale, right

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x, y (..., d) -> (..., d), with a norm after the adapter."""
        assert self.norm is not None
        return y + self.norm(self.adapter(x) * self.scale)
