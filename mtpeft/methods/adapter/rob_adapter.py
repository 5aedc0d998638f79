"""Rob-Adapter: adapters at the bottom, in the middle and at the top of a frozen backbone, for perception of robots.

Sharma et al., "Lossless Adaptation of Pretrained Vision Models For Robotic Manipulation", ICLR 2023 (arXiv 2304.06600),
section 3. Bottom: a bottleneck on the embedded patches, against shifts of low-level appearance; middle: one on the output of
every MLP before its residual addition; top: a perceptron on the final features. No code is released: activation, widths
and exact places in a ViT are our reading.

Each task's head is the top already; `top` puts a residual bottleneck on the final norm's output before it, so that the two
are a perceptron of two layers with a shortcut, and dropping it leaves the backbone's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError
from mtpeft.methods.adapter.bottleneck import Activation, Bottleneck
from mtpeft.methods.base import MethodConfig, SiteModule
from mtpeft.methods.spec import register
from mtpeft.options import Count, Name

SECTIONS = {"bottom": "patch_embed", "middle": "after_mlp", "top": "final_norm"}


@dataclass(frozen=True, kw_only=True)
class RobAdapterConfig(MethodConfig):
    """`bottom`, `middle`, `top`: the sections that have adapters (`sites` says it otherwise), of `bottleneck_dim` r."""

    sites: tuple[Name, ...] = ()
    bottom: bool = True
    middle: bool = True
    top: bool = False
    bottleneck_dim: Count = 64
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = tuple(kind for section, kind in SECTIONS.items() if getattr(self, section))
        if not (asked or self.sites):
            raise ConfigError("method 'rob_adapter': bottom, middle and top are all False, so nothing would be trained")
        object.__setattr__(self, "sites", self.sites or asked)


@register(
    "rob_adapter",
    RobAdapterConfig,
    paper="Sharma et al., ICLR 2023 (arXiv 2304.06600)",
    weights="(L + 1) * (2 * d * bottleneck_dim + bottleneck_dim + d)",
)
class RobAdapter(SiteModule):
    """y + W_up gelu(W_down y + b_d) + b_u; W_up and the biases start at zero."""

    def __init__(self, config: RobAdapterConfig, site: Site) -> None:
        super().__init__(config, site)
        self.axis = site.channel_axis
        self.adapter = Bottleneck(site.dim_out, config.bottleneck_dim, config.activation)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y (..., d), or a map (B, d, H, W) of embedded patches -> the same shape."""
        return y + self.adapter(y.movedim(self.axis, -1)).movedim(-1, self.axis)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """The three sections are what it has."""
        other = sorted({site.kind for site in sites} - set(SECTIONS.values()))
        return (
            f"it cannot act at the sites {', '.join(other)}, only at {', '.join(SECTIONS.values())}" if other else None
        )
