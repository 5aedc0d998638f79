"""Adapter+: one bottleneck behind every block, with a trained scale for each channel.

Steitz and Roth, "Adapters Strike Back", CVPR 2024 (arXiv 2406.06820), sections 3 and 4. The adapter follows the whole MLP
branch, its residual addition included, and has no norm. The paper compares the other positions of `position` by the same
code; `pfeiffer` is, in it, the same function as `post`. Its tables count the head among the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import Bottleneck
from mtpeft.methods.base import MethodConfig, SiteModule
from mtpeft.methods.product import add_product
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Name, Rate

#: position in the paper's terms -> kinds of sites
POSITIONS = {
    "post": ("block",),
    "pre": ("parallel_attn",),
    "parallel": ("parallel_mlp",),
    "intermediate": ("after_mlp",),
    "houlsby": ("after_attention", "after_mlp"),
}


@dataclass(frozen=True, kw_only=True)
class AdapterPlusConfig(MethodConfig):
    """`bottleneck_dim` r (8; the paper's best per task are 1 ... 32); `position` as in section 3.1 (`sites` says it otherwise).

    `post` behind the block, `pre` between its two branches, `parallel` beside the MLP branch, `intermediate` on the MLP's
    output and `houlsby` on that of both branches. `learned_scale` g of each channel, one scalar, or none; it starts at 1.
    `init` of the layers: `houlsby` normal of standard deviation 0.01 cut at twice that, `bert` normal 0.02, both with zero
    biases, or `lora`, torch's own below and zero above. `dropout` of hidden units, `drop_path` of the adapter by sample.
    """

    sites: tuple[Name, ...] = ()
    position: Literal["post", "pre", "parallel", "intermediate", "houlsby"] = "post"
    bottleneck_dim: Count = 8
    learned_scale: Literal["channel", "scalar", "none"] = "channel"
    init: Literal["houlsby", "bert", "lora"] = "houlsby"
    dropout: Rate = 0.0
    drop_path: Rate = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sites", self.sites or POSITIONS[self.position])


@register(
    "adapter_plus",
    AdapterPlusConfig,
    paper="Steitz and Roth, CVPR 2024 (arXiv 2406.06820)",
    properties=Properties(identity_at_init=False),
    weights="L * (2 * d * bottleneck_dim + bottleneck_dim + 2 * d)",
)
class AdapterPlus(SiteModule):
    """x + g * DropPath(W_up drop(gelu(W_down x + b_d)) + b_u), g (d,) the scale."""

    def __init__(self, config: AdapterPlusConfig, site: Site) -> None:
        super().__init__(config, site)
        self.kind, self.drop_path = site.kind, config.drop_path
        self.adapter = Bottleneck(site.dim_out, config.bottleneck_dim, "gelu", config.dropout)
        if config.init == "lora":
            self.adapter.down.reset_parameters()  # the layer above starts at zero already
        for layer in (self.adapter.down, self.adapter.up):
            if config.init == "houlsby":
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            elif config.init == "bert":
                nn.init.normal_(layer.weight, std=0.02)
        shape = {"channel": (site.dim_out,), "scalar": ()}.get(config.learned_scale)
        self.scale = None if shape is None else nn.Parameter(torch.ones(shape))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x, y (B, ..., d) -> (B, ..., d); what the adapter reads is the stream x + y behind the branch at `pre`."""
        read = x + y if self.kind == "parallel_attn" else x if self.kind == "parallel_mlp" else y
        left, right = self.adapter.factors(read)
        return add_product(y, self._drop(left), right if self.scale is None else right * self.scale)

    def _drop(self, hidden: torch.Tensor) -> torch.Tensor:
        """Whole samples to zero, the others scaled up, in training; with them goes the adapter's bias."""
        if not (self.drop_path and self.training):
            return hidden
        kept = hidden.new_ones(hidden.shape[0], *[1] * (hidden.ndim - 1))
        return hidden * nn.functional.dropout(kept, self.drop_path)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Each position means something of its own."""
        known = {kind for kinds in POSITIONS.values() for kind in kinds}
        other = sorted({site.kind for site in sites} - known)
        if other:
            return f"it cannot act at the sites {', '.join(other)}"
        wide = next((site for site in sites if site.dim != site.dim_out), None)
        return None if wide is None else f"block {wide.block} takes {wide.dim} channels and gives {wide.dim_out}"
