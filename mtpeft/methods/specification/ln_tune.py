"""LN-Tune: scale and shift of every normalisation layer are trained, everything else stays frozen.

Basu et al., "Strong Baselines for Parameter-Efficient Few-Shot Fine-Tuning", AAAI 2024 (arXiv 2304.01917), section 3.
Layers are chosen by type, wherever they sit (blocks, final norm, patch merging). Weight decay would pull the scales to
zero: keep it at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.copies import hookless_copy
from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register


@dataclass(frozen=True, kw_only=True)
class LNTuneConfig(MethodConfig):
    """Nothing to set besides the sites."""

    sites: Sites = ("norms",)


@register(
    "ln_tune",
    LNTuneConfig,
    paper="Basu et al., AAAI 2024 (arXiv 2304.01917)",
    properties=Properties(no_added_modules=True, structure_preserving=True, inference_efficient=True),
    weights="2 * d * (2 * L + 1)",
)
class LNTune(SiteModule):
    """A trained copy of the norm, applied to the norm's own input in place of its output."""

    styles: ClassVar[tuple[str, ...]] = ("output",)

    def __init__(self, config: LNTuneConfig, site: Site) -> None:
        super().__init__(config, site)
        self.norm = hookless_copy(site.module)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The norm's input x -> its output, under the trained scale and shift."""
        return self.norm(x)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The trained values replace the backbone's."""
        norm: Any = self.norm
        return norm.weight.detach().clone(), None if bias is None else norm.bias.detach().clone()

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Only norms have a scale and a shift to copy."""
        other = [site.kind for site in sites if "norms" not in site.tags]
        return f"site {other[0]!r} is not a normalisation layer" if other else None
