"""KAdaptation: increments of q and v as sums of Kronecker products, whose slow factors all blocks share.

He, Li, Zhang, Yang, Wang, "Parameter-efficient Model Adaptation for Vision Transformers", AAAI 2023 (arXiv 2203.16329),
section 3.2: H = sum over t terms of A_i kron B_i, A_i = a_i c_i^T (t, t) one set for q and one for v of the whole model, B_i =
u_i w_i^T of every block, and a bias per block that q and v share; x -> s x H + b. Published 79,699 on CLIP ViT-B/32 with heads of
29,523 on average, so 50,176 without.

Deviations from the authors' code, which cannot learn H: there u and w both start at zero, v uses the fast factors of q, and the
increment is reshaped without its axes being brought in order. Here u starts xavier-uniform and w at zero, every projection has
factors of its own, and the increment is one of the weight (of q before its division by the root of the head's width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive, Rate

#: terms of the paper, which divide the widths of every common ViT and Swin
TERMS = 32


@dataclass(frozen=True, kw_only=True)
class KAdaptationConfig(MethodConfig):
    """`terms` t, which divides the widths of every layer (None: 32, or its largest common divisor with them).

    `rank` of A_i and B_i; `scale` s (alpha 128, over 4, times 5 in the authors' code); `dropout` on the entries of H.
    """

    sites: Sites = ("q", "v")
    terms: Count | None = None
    rank: Count = 1
    scale: Positive = 160.0
    dropout: Rate = 0.5


def _terms(config: KAdaptationConfig, site: Site) -> int:
    return config.terms or math.gcd(TERMS, site.dim, site.dim_out)


class SlowFactors(nn.Module):
    """a (t, t, r) and c (t, r, t) for every kind of site, uniform in +-0.01; b (out,) for every block, zero."""

    def __init__(self, config: KAdaptationConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for site in sites:
            terms, key = _terms(config, site), _slow(config, site)
            if key not in self.a:
                self.a[key] = nn.Parameter(torch.empty(terms, terms, config.rank).uniform_(-0.01, 0.01))
                self.c[key] = nn.Parameter(torch.empty(terms, config.rank, terms).uniform_(-0.01, 0.01))
            self.b[f"block{site.block}"] = nn.Parameter(torch.zeros(site.dim_out))


def _slow(config: KAdaptationConfig, site: Site) -> str:
    """The name of a site's slow factors: all layers of a kind with as many terms share them."""
    return f"{site.kind}{_terms(config, site)}"


@register(
    "kadaptation",
    KAdaptationConfig,
    paper="He et al., AAAI 2023 (arXiv 2203.16329)",
    properties=Properties(inference_efficient=True),
    weights="L * (4 * rank + 1) * d + 4 * t ** 2 * rank where t = 32",
)
class KAdaptation(SiteModule):
    """y + s x H + b; u (t, in / t, r) xavier-uniform and w (t, r, out / t) zero, so that training starts at the backbone."""

    model_module = SlowFactors

    def __init__(self, config: KAdaptationConfig, site: Site) -> None:
        super().__init__(config, site)
        terms = _terms(config, site)
        self.slow, self.block, self.scale = _slow(config, site), f"block{site.block}", config.scale
        self.u = nn.Parameter(torch.empty(terms, site.dim // terms, config.rank))
        self.w = nn.Parameter(torch.zeros(terms, config.rank, site.dim_out // terms))
        self.dropout = nn.Dropout(config.dropout)
        self.made = site.dim * site.dim_out
        for factor in self.u.data:
            nn.init.xavier_uniform_(factor)

    def forward(self, x: torch.Tensor, y: torch.Tensor, model: Any) -> torch.Tensor:
        """x (..., in), y (..., out) -> (..., out)."""
        increment = self.scale * self.dropout(self._increment(model))
        return y + nn.functional.linear(x, increment.T, model.b[self.block])

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + s H^T and the bias plus b; a layer without bias gets one. Computed in float32 at least."""
        factors: Any = model["model"]
        moved = wide(factors.b[self.block])
        moved = moved if bias is None else wide(bias) + moved
        return (wide(weight) + self.scale * wide(self._increment(factors)).T).to(weight.dtype), moved.to(weight.dtype)

    def _increment(self, model: Any) -> torch.Tensor:
        """H (in, out), the sum over i of (a_i c_i) kron (u_i w_i)."""
        slow, fast = model.a[self.slow] @ model.c[self.slow], self.u @ self.w
        return torch.einsum("iab,icd->acbd", slow, fast).flatten(2).flatten(0, 1)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Linear layers of blocks, whose widths the terms divide, and which share a bias within a block."""
        widths: dict[int, int] = {}
        for site in sites:
            if not site.matrix or site.block is None:
                return f"site {site.kind!r} is not a linear layer of a block; use q, k, v, qkv, proj, fc1 or fc2"
            terms = _terms(config, site)
            if site.dim % terms or site.dim_out % terms:
                return (
                    f"terms={terms} must divide the widths of all layers, {site.key} has {site.dim} and {site.dim_out}"
                )
            if widths.setdefault(site.block, site.dim_out) != site.dim_out:
                return f"its layers share a bias within a block; {site.key} is {site.dim_out} wide beside {widths[site.block]}"
        return None
