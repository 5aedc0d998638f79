"""ARC: linear adapters before attention and MLP, re-composed in every block from projections of the whole model.

Dong et al., "Efficient Adaptation of Large Vision Transformer via Adapter Re-Composing", NeurIPS 2023 (arXiv 2310.06234),
section 3. One matrix U before attention and one before the MLP project down and, transposed, up in all blocks; each has its
own coefficients and bias. A pyramid has a pair for each width. `sites=("attention_in",)` is the paper's ARC_att.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.site import PLACES, Site
from mtpeft.methods.adapter.bottleneck import affine_factors
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Rate


@dataclass(frozen=True, kw_only=True)
class ARCConfig(MethodConfig):
    """`rank` r; `dropout` of the projected input.

    `mlp_init` of the coefficients before the MLP: `xavier` as in the authors' code, or `zeros`, which before attention is what
    they start from.
    """

    sites: Sites = ("attention_in", "mlp_in")
    rank: Count = 50
    dropout: Rate = 0.1
    mlp_init: Literal["xavier", "zeros"] = "xavier"


def _name(site: Site) -> str:
    return f"{site.kind}_{site.dim}"


class Projections(nn.Module):
    """U (d, r) for each kind of site and width, xavier-uniform."""

    def __init__(self, config: ARCConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        self.U = nn.ParameterDict(
            {_name(site): nn.init.xavier_uniform_(torch.empty(site.dim, config.rank)) for site in sites}
        )


@register(
    "arc",
    ARCConfig,
    paper="Dong et al., NeurIPS 2023 (arXiv 2310.06234)",
    properties=Properties(inference_efficient=True, identity_at_init=False),
    weights="2 * d * rank + 2 * L * (rank + d)",
)
class ARC(SiteModule):
    """x + drop(x U diag(c)) U^T + b, c (r,) and b (d,) the block's own."""

    model_module = Projections
    factored = True
    styles: ClassVar[tuple[str, ...]] = ("input",)

    def __init__(self, config: ARCConfig, site: Site) -> None:
        super().__init__(config, site)
        self.name = _name(site)
        self.coefficients = nn.Parameter(torch.zeros(config.rank))
        self.bias = nn.Parameter(torch.zeros(site.dim))
        self.dropout = nn.Dropout(config.dropout)
        if site.kind == "mlp_in" and config.mlp_init == "xavier":
            nn.init.xavier_uniform_(self.coefficients.unsqueeze(0))

    def factors(self, x: torch.Tensor, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., d) -> [drop(x U diag(c)), 1] (..., r + 1) and [U, b]^T (r + 1, d)."""
        projection = model.U[self.name]
        return affine_factors(self.dropout(x @ projection * self.coefficients), projection, self.bias)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W (I + U diag(c) U^T) and W b beside the bias, for every layer that reads what enters."""
        projections: Any = model["model"]
        projection, own = wide(projections.U[self.name]), wide(weight)
        moved = own + (own @ projection * wide(self.coefficients)) @ projection.T
        shift = own @ wide(self.bias)
        return moved.to(weight.dtype), (shift if bias is None else wide(bias) + shift).to(weight.dtype)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Folding needs linear layers that alone read what enters."""
        if other := sorted({site.kind for site in sites if site.style == "input"} - {"attention_in", "mlp_in"}):
            return f"it cannot act at the sites {', '.join(other)}, only at attention_in and mlp_in"
        mixed = [PLACES[site.kind] for site in sites if not site.readers]
        return f"it folds into linear layers, and here they are not all that reads {mixed[0]}" if mixed else None
