"""Houlsby adapters: a residual bottleneck after attention and one after the MLP, before each residual addition.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019 (arXiv 1902.00751), section 2.1. With
`sites=("after_mlp",)` it is the Pfeiffer placement, the "Adapter" of most visual papers. LayerNorms stay frozen, as in
the visual baselines. `adapter_ln` puts a norm of the adapter's own before it (`in`) or before its residual (`out`), as
Hyperformer's adapters have (Mahabadi et al., ACL 2021).
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
from mtpeft.options import Count, Rate


@dataclass(frozen=True, kw_only=True)
class HoulsbyConfig(MethodConfig):
    """`bottleneck_dim` r, or `reduction` rho for r = width / rho (pyramids); `activation` one of gelu, relu, silu.

    `adapter_ln` one of none, in, out.
    """

    sites: Sites = ("after_attention", "after_mlp")
    bottleneck_dim: Count = 8
    reduction: Count | None = None
    activation: Activation = "gelu"
    dropout: Rate = 0.0
    adapter_ln: Literal["none", "in", "out"] = "none"


@register(
    "houlsby",
    HoulsbyConfig,
    paper="Houlsby et al., ICML 2019 (arXiv 1902.00751)",
    weights="2 * L * (2 * d * bottleneck_dim + bottleneck_dim + d)",
)
class Houlsby(SiteModule):
    """h + W_up act(W_down h + b_d) + b_u; W_up and the biases start at zero."""

    beside: ClassVar[Mapping[str, int | None]] = BESIDE

    def __init__(self, config: HoulsbyConfig, site: Site) -> None:
        super().__init__(config, site)
        hidden = bottleneck_width(site, config.bottleneck_dim, config.reduction)
        self.adapter = Bottleneck(site.dim, hidden, config.activation, config.dropout)
        self.norm = None if config.adapter_ln == "none" else nn.LayerNorm(site.dim)
        self.factored = config.adapter_ln != "out"

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., d) -> [h, 1] (..., r + 1) with h the hidden units, and [W_up, b_u]^T (r + 1, d)."""
        return self.adapter.factors(x if self.norm is None else self.norm(x))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x, y (..., d) -> (..., d), with a norm after the adapter."""
        assert self.norm is not None
        return y + self.norm(self.adapter(x))
