"""PATT: keys and values get an addition computed from attention's input, in place of a prefix that is learned.

Yu et al., "Towards a Unified View on Visual Parameter-Efficient Transfer Learning", 2022 (arXiv 2210.00788), section 4.
The paper's V-PEFT is this beside an adapter parallel to the MLP, fed with the normed input:
`[{"name": "patt"}, {"name": "adaptformer", "sites": ["parallel_mlp_ln"]}]`. Published settings: scale 0.8, SGD, no weight decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import affine_factors
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive


@dataclass(frozen=True, kw_only=True)
class PATTConfig(MethodConfig):
    """`bottleneck_dim` r; `mode`: which of q, k, v get an addition; `scale` s; `bias` of both layers.

    `init` of both layers: `linear`, torch's own, which the authors' models start from; or `trunc_normal`, standard deviation
    0.02 and zero biases, which their code defines, but does not call on these layers. `zero_init` starts the second layer at
    zero, so that the model is its own at the start; the authors do not.
    """

    sites: Sites = ("qkv",)
    bottleneck_dim: Count = 32
    mode: Literal["kv", "qv", "qk", "qkv"] = "kv"
    scale: Positive = 0.8
    bias: bool = True
    init: Literal["linear", "trunc_normal"] = "linear"
    zero_init: bool = False


@register(
    "patt",
    PATTConfig,
    paper="Yu et al., 2022 (arXiv 2210.00788)",
    properties=Properties(identity_at_init=False),
    weights="L * (bottleneck_dim * (3 * d + 1) + 2 * d)",
)
class PATT(SiteModule):
    """y + s * (W_2 tanh(W_1 x + b_1) + b_2) on the rows of `mode`."""

    factored = True

    def __init__(self, config: PATTConfig, site: Site) -> None:
        super().__init__(config, site)
        self.mode, self.scale, self.width = config.mode, config.scale, site.dim_out // 3
        self.down = nn.Linear(site.dim, config.bottleneck_dim, bias=config.bias)
        self.up = nn.Linear(config.bottleneck_dim, len(config.mode) * self.width, bias=config.bias)
        for layer in (self.down, self.up) if config.init == "trunc_normal" else ():
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if config.bias:
                nn.init.zeros_(layer.bias)
        for tensor in self.up.parameters() if config.zero_init else ():
            nn.init.zeros_(tensor)

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., d) -> s [tanh(W_1 x + b_1), 1] (..., r + 1) and [W_2, b_2]^T (r + 1, 3 d), zero where `mode` has no row."""
        hidden, (weight, bias) = torch.tanh(self.down(x)), (self.up.weight, self.up.bias)
        left, right = (hidden, weight.T) if bias is None else affine_factors(hidden, weight, bias)
        parts = dict(zip(self.mode, right.split(self.width, dim=-1), strict=True))
        zero = torch.zeros_like(right[:, : self.width])
        return left * self.scale, torch.cat([parts.get(name, zero) for name in "qkv"], dim=-1)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """One addition for keys and values together needs one projection of them."""
        if any(site.kind != "qkv" for site in sites):
            return "it needs one fused projection qkv; this backbone projects queries, keys and values apart"
        return None
