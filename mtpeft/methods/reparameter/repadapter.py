"""RepAdapter: a linear bottleneck before attention and before the MLP, which folds into the layers behind it.

Luo et al., "Towards Efficient Visual Adaption via Structural Re-parameterization", 2023 (arXiv 2302.08106), sections 3.2 and
3.3: R(u) = u + s (W_u drop(W_d u + b_d) + b_u), W_u in groups, on what leaves the norms (`repblock`); before attention alone
with `sites=("qkv",)` (`repattn`). Published 0.22 M on ViT-B without biases, 239,808 with those the authors' code trains.

The layer behind, y = W u + b, gives W R(u) + b = y + s W W_u drop(W_d u + b_d) + s W b_u, so the bottleneck is computed as a
product of rank h added to y, with W W_u (out, h) formed once per step: the stream of width d is never made anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import affine_factors
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive, Rate


@dataclass(frozen=True, kw_only=True)
class RepAdapterConfig(MethodConfig):
    """`bottleneck_dim` h, `groups` of W_u, `scale` s (0.1 ... 10, tuned per task in the paper), `dropout` on the bottleneck."""

    sites: Sites = ("qkv", "fc1")
    bottleneck_dim: Count = 8
    groups: Count = 2
    scale: Positive = 1.0
    dropout: Rate = 0.1


@register(
    "repadapter",
    RepAdapterConfig,
    paper="Luo et al., 2023 (arXiv 2302.08106)",
    properties=Properties(inference_efficient=True),
    weights="2 * L * (d * bottleneck_dim // groups + d * bottleneck_dim + bottleneck_dim + d)",
)
class RepAdapter(SiteModule):
    """W R(x) + b in the place of y = W x + b; W_d (h, d) xavier-uniform, W_u (d, h / groups) and both biases zero."""

    factored = True

    def __init__(self, config: RepAdapterConfig, site: Site) -> None:
        super().__init__(config, site)
        self.site, self.scale, self.groups = site, config.scale, config.groups
        self.down = nn.Linear(site.dim, config.bottleneck_dim)
        #: rows of group g see the hidden units of group g alone
        self.up = nn.Parameter(torch.zeros(site.dim, config.bottleneck_dim // config.groups))
        self.up_bias = nn.Parameter(torch.zeros(site.dim))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., d) -> drop(W_d x + b_d) with a one beside it (..., h + 1), and s [W W_u, W b_u]^T (h + 1, out)."""
        weight = self.site.own_weight()  # (out, d)
        grouped = weight.unflatten(1, (self.groups, -1)).transpose(0, 1)  # (groups, out, d / groups)
        up = grouped @ self.up.unflatten(0, (self.groups, -1))  # (groups, out, h / groups)
        up = up.transpose(0, 1).flatten(1)
        return affine_factors(self.dropout(self.down(x)), self.scale * up, self.scale * (weight @ self.up_bias))

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W (1 + s W_u W_d) and W s (W_u b_d + b_u) + b; a layer without bias gets one. Computed in float32 at least."""
        own, down, down_bias = wide(self.site.own_weight()), wide(self.down.weight), wide(self.down.bias)
        up = torch.block_diag(*wide(self.up).chunk(self.groups))
        new = wide(weight) + self.scale * own @ up @ down
        moved = self.scale * own @ (up @ down_bias + wide(self.up_bias))
        moved = moved if bias is None else wide(bias) + moved
        return new.to(weight.dtype), moved.to(weight.dtype)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """A linear layer, alone in reading its input; groups that divide the widths."""
        if config.bottleneck_dim % config.groups:
            return f"groups={config.groups} must divide bottleneck_dim={config.bottleneck_dim}"
        for site in sites:
            if not site.matrix:
                return f"site {site.kind!r} is not a linear layer that it could fold into"
            if site.dim % config.groups:
                return f"groups={config.groups} must divide the width, {site.key} has {site.dim}"
        places = Counter((site.block, "q, k and v" if site.kind in ("q", "k", "v") else site.kind) for site in sites)
        several = next((kind for (_, kind), count in places.items() if count > 1), None)
        if several is not None:
            return f"it is one adapter before one layer, and {several} of a block are several layers here"
        return None
