"""NOAH: prompts, low-rank updates and adapters together, each of a size of its own in every block.

Zhang, Zhou and Liu, "Neural Prompt Search", 2022 (arXiv 2206.04673). A subnet is three lists of sizes, one for each block:

    prompts  p: P (p, d) at the end of the sequence; they take the place of what prompts came before
    ranks    r: qkv + B A drop(LN1 x), one A (r, d) for q, k and v together, B (3d, r), no scale
    widths   h: m + W_2 drop(QuickGELU(W_1 m + b_1)) + b_2 with m the output of the MLP

A size of 0 leaves the part out. Prompts go on through the blocks without prompts of their own, as in the authors' code. The
supernet of the search is the same method at the largest sizes, of which a smaller subnet is the leading rows (b_2 is not
cut): see `mtpeft.search`. `dict(name="noah", prompts=[...], ranks=[...], widths=[...])` uses what a search found.

Left out: the prompt at model level that the authors' code owns and counts in its search, which no output depends on. Attention
knows no order of tokens, so prompts may stand anywhere in the sequence; where it knows positions (EVA, BEiT) they have none,
and in Swin every window sees them, as `vpt_deep`'s. Under drop path the adapter is dropped with its MLP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError
from mtpeft.methods.adapter.bottleneck import affine_factors
from mtpeft.methods.adapter.convpass import quick_gelu
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Length, Rate, WholeNumber

#: where a part sits -> the option with its sizes
SIZES = {"tokens": "prompts", "qkv": "ranks", "after_mlp": "widths"}
PerBlock = WholeNumber | Annotated[tuple[WholeNumber, ...], Length(at_least=1)]


@dataclass(frozen=True, kw_only=True)
class NOAHConfig(MethodConfig):
    """Sizes in every block, as one number for all or a list with one for each, 0 for none.

    `prompts`: numbers of prompt tokens; `ranks`: ranks of the updates of q, k and v; `widths`: widths of the adapters' hidden
    layers. The supernets of the paper have 100 of each, its subnets 1, 5 and 10 (VTAB-1k), or 5, 10, 50 and 100 (few shots).

    `dropout` on prompts, on the updates' input and on hidden units. `zero_init` starts B and W_2 at zero, as the authors' modules
    do before all weights are drawn anew; prompts move the outputs at the start all the same.
    """

    sites: Sites = tuple(SIZES)
    prompts: PerBlock = 5
    ranks: PerBlock = 5
    widths: PerBlock = 5
    dropout: Rate = 0.1
    zero_init: bool = False

    def size(self, site: Site) -> int:
        """The size of a site's part."""
        sizes: Any = getattr(self, SIZES[site.kind])
        return sizes if isinstance(sizes, int) else sizes[site.block]


@register(
    "noah",
    NOAHConfig,
    paper="Zhang, Zhou and Liu, 2022 (arXiv 2206.04673)",
    properties=Properties(identity_at_init=False),
    elastic=SIZES,
    weights="L * (d * prompts + 4 * d * ranks + (2 * d + 1) * widths + d)",
)
class NOAH(SiteModule):
    """Prompts before a block, an update of its qkv, an adapter behind its MLP; linear weights truncated normal (0.02)."""

    styles: ClassVar[tuple[str, ...]] = ("tokens", "output", "input")
    carry: ClassVar[bool] = True
    replaces: ClassVar[bool] = True

    def __init__(self, config: NOAHConfig, site: Site) -> None:
        super().__init__(config, site)
        size, d = config.size(site), site.dim
        self.part = SIZES[site.kind]
        self.factored = self.part != "prompts"
        self.dropout = nn.Dropout(config.dropout)
        if self.part == "prompts":
            bound = math.sqrt(6 / (size * d + d))  # xavier-uniform as of (1, p, d)
            self.prompts = nn.Parameter(torch.empty(size, d).uniform_(-bound, bound))
        elif self.part == "ranks":
            self.lora_A = nn.Parameter(torch.empty(size, d))
            self.lora_B = nn.Parameter(torch.empty(site.dim_out, size))
            _draw(self.lora_A, self.lora_B, config.zero_init)
        else:
            self.down, self.up = nn.Linear(d, size), nn.Linear(size, d)
            _draw(self.down.weight, self.up.weight, config.zero_init)
            for layer in (self.down, self.up):
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Prompts: block input x (B, N, d) -> (B, p, d)."""
        return self.dropout(self.prompts[: self.active].expand(x.shape[0], -1, -1))

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Update: x (..., d) -> A drop(x) (..., r) and B^T (r, 3d). Adapter: [h, 1] (..., h + 1) and [W_2, b_2]^T (h + 1, d)."""
        n = self.active  # leading rows; None for all
        if self.part == "ranks":
            return F.linear(self.dropout(x), self.lora_A[:n]), self.lora_B[:, :n].T
        if n == 0:  # not even b_2
            return x[..., :0], self.up.weight[:, :0].T
        hidden = self.dropout(quick_gelu(F.linear(x, self.down.weight[:n], self.down.bias[:n])))
        return affine_factors(hidden, self.up.weight[:, :n], self.up.bias)

    @staticmethod
    def chosen(config: NOAHConfig, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """The sites whose part has a size. Raises `ConfigError` for lists that do not fit the number of blocks."""
        for site in sites:
            if site.kind in ("q", "k", "v"):
                raise ConfigError(
                    "it needs one fused projection qkv; this backbone projects queries, keys and values apart"
                )
            if site.kind not in SIZES:
                raise ConfigError(f"it acts at {', '.join(SIZES)}, not at {site.kind!r}")
            sizes = getattr(config, SIZES[site.kind])
            if not isinstance(sizes, int) and len(sizes) != site.depth:
                raise ConfigError(f"{SIZES[site.kind]} has {len(sizes)} sizes, and the model {site.depth} blocks")
        return [site for site in sites if config.size(site) > 0]


def _draw(first: torch.Tensor, second: torch.Tensor, zero: bool) -> None:
    nn.init.trunc_normal_(first, std=0.02)
    nn.init.zeros_(second) if zero else nn.init.trunc_normal_(second, std=0.02)
