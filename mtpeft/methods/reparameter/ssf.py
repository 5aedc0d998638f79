"""SSF: a scale and a shift per channel after every operation of the frozen network.

Lian et al., "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", NeurIPS 2022
(arXiv 2210.08823), section 3.2, equations 2 and 3. Weight decay would pull the scales to 0, not to 1: keep vectors out
of it, as the authors do.

On Swin the authors' code writes a scale and a shift for the norms of patch merging, too, but never makes them: it hands patch
merging the list of a stage's modes where it compares with a single one. Without them Swin-B has 267,264 weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.channels import scale_and_shift
from mtpeft.methods.spec import Properties, register
from mtpeft.options import NotNegative


@dataclass(frozen=True, kw_only=True)
class SSFConfig(MethodConfig):
    """`init_std`: standard deviation of scale around 1 and of shift around 0 at the start (0 starts at the backbone).

    `merging_norms`: the norms of patch merging (Swin) get a scale and a shift as well.
    """

    sites: Sites = ("operations",)
    init_std: NotNegative = 0.02
    merging_norms: bool = False


@register(
    "ssf",
    SSFConfig,
    paper="Lian et al., NeurIPS 2022 (arXiv 2210.08823)",
    properties=Properties(inference_efficient=True, identity_at_init=False),
    weights="4 * d + L * (14 * d + 2 * m)",
)
class SSF(SiteModule):
    """y * gamma + beta, gamma ~ N(1, 0.02), beta ~ N(0, 0.02), each (C,)."""

    def __init__(self, config: SSFConfig, site: Site) -> None:
        super().__init__(config, site)
        self.site = site
        self.scale = nn.Parameter(torch.ones(site.dim_out))
        self.shift = nn.Parameter(torch.zeros(site.dim_out))
        nn.init.normal_(self.scale, mean=1.0, std=config.init_std)
        nn.init.normal_(self.shift, std=config.init_std)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y with C channels on the site's channel axis -> the same shape."""
        return scale_and_shift(y, self.scale, self.shift, self.site.channel_axis)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """diag(gamma) W and gamma b + beta; a layer without bias gets one."""
        scale, shift = wide(self.scale), wide(self.shift)
        rows = scale.view(-1, *[1] * (weight.ndim - 1))
        new_bias = shift if bias is None else scale * wide(bias) + shift
        return (rows * wide(weight)).to(weight.dtype), new_bias.to(weight.dtype)

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """All, less the norms of patch merging unless they are asked for."""
        return [site for site in sites if config.merging_norms or not {"merging", "norms"} <= site.tags]
