"""Prefix-tuning: learned keys and values in front of those of every attention layer.

Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021 (arXiv 2101.00190), section 4;
initialisation and calibration of Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient
Tuning" (LAE), ICCV 2023, section 3.2. In window attention every window sees the same prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(MethodConfig):
    """`num_tokens` m keys and m values per layer; `reparam_dim` trains them through a tanh MLP of that width.

    `calibrated` is LAE's calibrated learning speed: the prefix's attention is divided by its own sum, and trained scalars
    that start at 1 multiply keys and values.
    """

    sites: Sites = ("prefix",)
    num_tokens: Count = 10
    reparam_dim: Count | None = None
    calibrated: bool = False


@register(
    "prefix_tuning",
    PrefixTuningConfig,
    paper="Li and Liang, ACL 2021 (arXiv 2101.00190)",
    properties=Properties(structure_preserving=True, identity_at_init=False),
    weights="2 * L * d * num_tokens",
)
class PrefixTuning(SiteModule):
    """Keys and values (m, C), uniform in 0 ... 0.01, not projected and without position."""

    styles: ClassVar[tuple[str, ...]] = ("prefix",)
    beside: ClassVar[Mapping[str, int | None]] = {"keys": 0, "values": 0}

    def __init__(self, config: PrefixTuningConfig, site: Site) -> None:
        super().__init__(config, site)
        width, m = site.dim_out, config.num_tokens
        self.network: nn.Module | None = None
        if config.reparam_dim is None:
            self.keys = nn.Parameter(torch.empty(m, width).uniform_(0, 0.01))
            self.values = nn.Parameter(torch.empty(m, width).uniform_(0, 0.01))
        else:
            self.embedding = nn.Parameter(torch.empty(m, width).normal_(std=0.02))
            hidden = config.reparam_dim
            self.network = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 2 * width))
        self.scales = nn.Parameter(torch.ones(2)) if config.calibrated else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention input x (B, N, d) -> keys and values, each (B, m, C)."""
        if self.network is None:
            keys, values = torch.as_tensor(self.keys), torch.as_tensor(self.values)
        else:
            keys, values = self.network(self.embedding).chunk(2, dim=-1)
        if self.scales is not None:
            keys, values = keys * self.scales[0], values * self.scales[1]
        return keys.expand(x.shape[0], -1, -1), values.expand(x.shape[0], -1, -1)
