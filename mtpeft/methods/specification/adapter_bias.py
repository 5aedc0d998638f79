"""AdapterBias: a shift of the MLP's output, in one direction for all tokens and of another strength for each.

Fu et al., "AdapterBias: Parameter-efficient Token-dependent Representation Shift for Adapters in NLP Tasks", Findings of
NAACL 2022 (arXiv 2205.00305), section 3. The strength is linear in what the MLP's second layer reads, as in the authors'
code, so the shift folds into that layer: a product of rank one, and a bias along the same direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.copies import hookless_copy
from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.spec import Properties, register

#: the norms that read what leaves an MLP, in blocks that norm first
NORMS = ("norm1", "final_norm")


@dataclass(frozen=True, kw_only=True)
class AdapterBiasConfig(MethodConfig):
    """`share_alpha`: one linear layer gives the strength in all blocks, which must then be of one width.

    `train_norm`: the norms behind the MLPs and the embedding are trained too, as in the authors' code: in blocks that norm
    first these are `norm1` and the final norm.
    """

    sites: Sites = ("fc2",)
    share_alpha: bool = False
    train_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_norm:
            object.__setattr__(self, "sites", tuple(dict.fromkeys((*self.sites, *NORMS))))


def strength(dim: int) -> nn.Linear:
    """alpha = h w + c (..., 1), w ~ N(0, 0.02) and c = 0."""
    layer = nn.Linear(dim, 1)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def shared_strength(config: AdapterBiasConfig, sites: Sequence[Site]) -> nn.Linear | None:
    """The one layer of `share_alpha`."""
    return strength(next(site.dim for site in sites if site.kind not in NORMS)) if config.share_alpha else None


@register(
    "adapter_bias",
    AdapterBiasConfig,
    paper="Fu et al., Findings of NAACL 2022 (arXiv 2205.00305)",
    properties=Properties(inference_efficient=True),
    weights="L * (m + d + 1)",
)
class AdapterBias(SiteModule):
    """W_2 h + b_2 + alpha v, h the MLP's hidden units, alpha (..., 1) their strength and v (d,), which starts at zero."""

    styles: ClassVar[tuple[str, ...]] = ("output",)
    model_module = staticmethod(shared_strength)

    def __init__(self, config: AdapterBiasConfig, site: Site) -> None:
        super().__init__(config, site)
        self.norm = hookless_copy(site.module) if site.kind in NORMS else None
        self.factored = self.norm is None
        if self.norm is None:
            self.vector = nn.Parameter(torch.zeros(site.dim_out))
            self.alpha = None if config.share_alpha else strength(site.dim)

    def factors(self, x: torch.Tensor, model: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden units x (..., 4 d) -> alpha (..., 1) and v (1, d)."""
        alpha: Any = self.alpha or model
        return alpha(x), self.vector.unsqueeze(0)

    def forward(self, x: torch.Tensor, y: torch.Tensor, model: Any = None) -> torch.Tensor:
        """The norm's input x -> its output, under the trained scale and shift."""
        assert self.norm is not None
        return self.norm(x)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W_2 + v w^T and b_2 + c v; the trained values replace a norm's own."""
        if self.norm is not None:
            norm: Any = self.norm
            return norm.weight.detach().clone(), None if bias is None else norm.bias.detach().clone()
        alpha: Any = self.alpha or model["model"]
        vector = wide(self.vector)
        moved = wide(weight) + torch.outer(vector, wide(alpha.weight[0]))
        shift = wide(alpha.bias) * vector
        return moved.to(weight.dtype), (shift if bias is None else wide(bias) + shift).to(weight.dtype)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """A shift needs a linear layer; a strength for all blocks needs one width."""
        norms = NORMS if config.train_norm else ()
        layers = [site for site in sites if site.kind not in norms]
        if other := [site.kind for site in layers if not site.matrix]:
            return f"site {other[0]!r} is not a linear layer; the paper's is fc2"
        if norms and not layers:
            return "without a linear layer it is no more than trained norms"
        widths = sorted({site.dim for site in layers})
        if config.share_alpha and len(widths) > 1:
            return f"share_alpha needs one width in all blocks, and these have {', '.join(map(str, widths))}"
        return None
