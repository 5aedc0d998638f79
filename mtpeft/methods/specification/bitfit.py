"""BitFit: all bias vectors of the network are trained, everything else stays frozen.

Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
ACL 2022 (arXiv 2106.10199), section 3. Biases of linear layers, convolutions and norms; relative-position tables are not
biases here. Weight decay would pull the biases to zero, not to their pre-trained values: keep it at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, Properties, SiteModule, register


@dataclass(frozen=True, kw_only=True)
class BitFitConfig(MethodConfig):
    """Nothing to set besides the sites."""

    sites: tuple[str, ...] = ("biases",)


@register(
    "bitfit",
    BitFitConfig,
    paper="Ben Zaken et al., ACL 2022 (arXiv 2106.10199)",
    properties=Properties(no_added_modules=True, structure_preserving=True, inference_efficient=True),
)
class BitFit(SiteModule):
    """A copy of the site's bias, trained; the output moves by its difference to the backbone's own."""

    def __init__(self, config: BitFitConfig, site: Site) -> None:
        super().__init__(config, site)
        own = site.own_bias()
        assert own is not None
        self.site = site
        self.bias = nn.Parameter(own.detach().clone())

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y with C channels on the site's channel axis -> the same shape."""
        own = self.site.own_bias()
        assert own is not None
        return y + self.site.broadcast(self.bias - own.detach())

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The bias moves by what was learned, so that methods folded before it stay."""
        own = self.site.own_bias()
        assert own is not None and bias is not None
        return weight, bias + (self.bias - own).to(bias.dtype)
