"""VQT: learned tokens that act only as queries; what they read from every block joins the features.

Tu, Mai, Chao, "Visual Query Tuning: Towards Effective Usage of Intermediate Representations for Parameter and Memory
Efficient Transfer Learning", CVPR 2023 (arXiv 2212.03220), section 3.2. The main stream stays the frozen backbone's own;
the features are the pooled output and every block's query outputs, each L2-normalised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Rate


@dataclass(frozen=True, kw_only=True)
class VQTConfig(MethodConfig):
    """`num_tokens` T per block (the paper picks 1, 10 or 20); `dropout` on the query tokens."""

    sites: Sites = ("queries",)
    num_tokens: Count = 1
    dropout: Rate = 0.1


@register(
    "vqt",
    VQTConfig,
    paper="Tu et al., CVPR 2023 (arXiv 2212.03220)",
    properties=Properties(structure_preserving=True, memory_efficient=True, identity_at_init=True),
    weights="L * d * num_tokens",
)
class VQT(SiteModule):
    """T query tokens (T, d), uniform in +-sqrt(6 / (3 P^2 + d)) for patch size P; they enter before LN1."""

    styles: ClassVar[tuple[str, ...]] = ("queries",)

    def __init__(self, config: VQTConfig, site: Site) -> None:
        super().__init__(config, site)
        bound = math.sqrt(6 / (3 * site.patch_size**2 + site.dim))
        self.queries = nn.Parameter(torch.empty(config.num_tokens, site.dim).uniform_(-bound, bound))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Block input x (B, N, d) -> query tokens (B, T, d)."""
        return self.dropout(self.queries.expand(x.shape[0], -1, -1))

    @staticmethod
    def feature_dim(config: Any, dim: int, sites: Sequence[Site]) -> int:
        """d (1 + L T)."""
        return dim + sum(config.num_tokens * site.dim for site in sites)

    @staticmethod
    def combine(config: Any, pooled: torch.Tensor, read: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, d) and L times (B, T, d) -> (B, d (1 + L T)); each block's T d numbers are one vector of norm 1."""
        parts = [pooled, *(q.flatten(1) for q in read)]
        return torch.cat([nn.functional.normalize(part, dim=1) for part in parts], dim=1)
