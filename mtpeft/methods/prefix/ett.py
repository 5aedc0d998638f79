"""eTT: prefixes of all layers made of a few tokens by one network, and a vector added to what each branch gives.

Xu et al., "Exploring Efficient Few-shot Adaptation for Vision Transformers", TMLR 2022 (arXiv 2301.02419), section 4. The
paper adapts to episodes: tokens stand for classes and start as their attentive prototypes, logits are cosines to
prototypes of linearly mapped features, and a second loss keeps tokens apart. Here is what acts on the backbone, attentive
prefix tuning and the domain residual adapter; tokens start at random and a task has a head as any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import CHANGED, Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count

OFFSETS = ("parallel_attn", "parallel_mlp")


@dataclass(frozen=True, kw_only=True)
class ETTConfig(MethodConfig):
    """`num_tokens` m, in the paper the number of classes; `reparam_dim` of the network, None for the paper's d / 2."""

    sites: Sites = ("prefix", *OFFSETS)
    num_tokens: Count = 10
    reparam_dim: Count | None = None


class PrefixNetwork(nn.Module):
    """P = W_2 tanh(W_1 E + b_1) + b_2: tokens E (m, d) -> keys and values of L layers, (m, 2 L d), layer after layer."""

    def __init__(self, config: ETTConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        self.places = {site.key: place for place, site in enumerate(s for s in sites if s.kind == "prefix")}
        self.width = sites[0].dim
        hidden = config.reparam_dim or max(self.width // 2, 1)
        self.tokens = nn.Parameter(torch.empty(config.num_tokens, self.width).normal_(std=0.02))
        self.down = nn.Linear(self.width, hidden)
        self.up = nn.Linear(hidden, 2 * len(self.places) * self.width)

    def forward(self, key: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one layer, each (m, d): only its rows of W_2 are used."""
        start = 2 * self.places[key] * self.width
        rows = slice(start, start + 2 * self.width)
        made = nn.functional.linear(torch.tanh(self.down(self.tokens)), self.up.weight[rows], self.up.bias[rows])
        keys, values = made.chunk(2, dim=-1)
        return keys, values


@register(
    "ett",
    ETTConfig,
    paper="Xu et al., TMLR 2022 (arXiv 2301.02419)",
    properties=Properties(identity_at_init=False),
    weights="(num_tokens + 2 * L) * d + r * d + r + 2 * L * d * (r + 1) where r = d // 2",
)
class ETT(SiteModule):
    """K' = [P_k; K], V' = [P_v; V] in every layer;  y + o behind both branches, o (d,) zero at the start."""

    styles: ClassVar[tuple[str, ...]] = ("prefix", *CHANGED)
    model_module: ClassVar[type[nn.Module] | None] = PrefixNetwork

    def __init__(self, config: ETTConfig, site: Site) -> None:
        super().__init__(config, site)
        self.key = site.key
        self.offset = None if site.kind == "prefix" else nn.Parameter(torch.zeros(site.dim_out))

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, *, model: Any
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Attention input x (B, N, d) -> keys and values (B, m, d); or what a branch gives, y (B, N, d) -> y + o."""
        if y is not None and self.offset is not None:
            return y + self.offset
        keys, values = model(self.key)
        return keys.expand(x.shape[0], -1, -1), values.expand(x.shape[0], -1, -1)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """One network makes the prefixes of all layers, which therefore have one width."""
        foreign = sorted({site.kind for site in sites} - {"prefix", *OFFSETS})
        if foreign:
            return f"it extends keys and values and adds to branches: it cannot act at {', '.join(foreign)}"
        if not any(site.kind == "prefix" for site in sites):
            return "its network makes prefixes, and the sites hold none"
        widths = sorted({width for site in sites for width in (site.dim, site.dim_out)})
        if len(widths) > 1:
            return f"one network makes the prefixes of all layers, and their widths are {', '.join(map(str, widths))}"
        return None
