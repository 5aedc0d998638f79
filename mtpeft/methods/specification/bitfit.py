"""BitFit: all bias vectors of the network are trained, everything else stays frozen.

Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
ACL 2022 (arXiv 2106.10199), section 3. Biases of linear layers, convolutions and norms. Weight decay would pull the biases
to zero, not to their pre-trained values: keep it at 0.

Relative-position tables (Swin, BEiT) are added to logits, so they are biases too, but not vectors of a layer: `tables`
decides. Published numbers of Swin include them: 52,224 biases and 23,322 table entries per task on Swin-T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register

#: kind of the sites that are relative-position tables
TABLE = "position_table"


@dataclass(frozen=True, kw_only=True)
class BitFitConfig(MethodConfig):
    """`tables`: relative-position tables are trained as well; a backbone without them is refused."""

    sites: Sites = ("biases",)
    tables: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tables and TABLE not in self.sites:
            object.__setattr__(self, "sites", (*self.sites, TABLE))


@register(
    "bitfit",
    BitFitConfig,
    paper="Ben Zaken et al., ACL 2022 (arXiv 2106.10199)",
    properties=Properties(no_added_modules=True, structure_preserving=True, inference_efficient=True),
    weights="2 * d + L * (7 * d + m)",
)
class BitFit(SiteModule):
    """A copy of the site's bias, trained; output or logits move by its difference to the backbone's own."""

    styles: ClassVar[tuple[str, ...]] = ("output", "logits")

    def __init__(self, config: BitFitConfig, site: Site) -> None:
        super().__init__(config, site)
        own = site.own_bias()
        assert own is not None
        self.site = site
        self.bias = nn.Parameter(own.detach().clone())

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """y with C channels on the site's channel axis -> the same shape; at a table, x (B, ...) -> (B, heads, N, N)."""
        moved = self._moved()
        if y is not None:
            return y + self.site.broadcast(moved)
        attention: Any = self.site.attention
        index = attention.relative_position_index  # (N, N), an entry of the table for every pair of positions
        logits = moved.index_select(0, index.flatten()).unflatten(0, index.shape).permute(2, 0, 1)
        return logits.expand(x.shape[0], -1, -1, -1)

    def merged(self, weight: Any, bias: torch.Tensor | None, **model: nn.Module) -> tuple[Any, torch.Tensor | None]:
        """The bias moves by what was learned, so that methods folded before it stay. A table comes without a weight."""
        assert bias is not None
        return weight, bias + self._moved().to(bias.dtype)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Only a layer with a bias has one to train."""
        without = [site.kind for site in sites if site.own_bias() is None]
        return f"site {without[0]!r} has no bias of its own" if without else None

    def _moved(self) -> torch.Tensor:
        own = self.site.own_bias()
        assert own is not None
        return self.bias - own.detach()
