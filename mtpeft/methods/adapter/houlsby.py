"""Houlsby adapters: a residual bottleneck after attention and one after the MLP, before each residual addition.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019 (arXiv 1902.00751), section 2.1. With
`sites=("after_mlp",)` it is the Pfeiffer placement, the "Adapter" of most visual papers. LayerNorms stay frozen, as in
the visual baselines.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import Activation, Bottleneck, bottleneck_width
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, register
from mtpeft.options import Count, Rate


@dataclass(frozen=True, kw_only=True)
class HoulsbyConfig(MethodConfig):
    """`bottleneck_dim` r, or `reduction` rho for r = width / rho (pyramids); `activation` one of gelu, relu, silu."""

    sites: Sites = ("after_attention", "after_mlp")
    bottleneck_dim: Count = 8
    reduction: Count | None = None
    activation: Activation = "gelu"
    dropout: Rate = 0.0


@register("houlsby", HoulsbyConfig, paper="Houlsby et al., ICML 2019 (arXiv 1902.00751)")
class Houlsby(SiteModule):
    """h + W_up act(W_down h + b_d) + b_u; W_up and the biases start at zero."""

    factored = True

    def __init__(self, config: HoulsbyConfig, site: Site) -> None:
        super().__init__(config, site)
        hidden = bottleneck_width(site, config.bottleneck_dim, config.reduction)
        self.adapter = Bottleneck(site.dim, hidden, config.activation, config.dropout)

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., d) -> [h, 1] (..., r + 1) with h the hidden units, and [W_up, b_u]^T (r + 1, d)."""
        return self.adapter.factors(x)
