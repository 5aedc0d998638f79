"""KronA: a Kronecker product of two small matrices added to frozen linear weights.

Edalati et al., "KronA: Parameter Efficient Tuning with Kronecker Adapter", 2022 (arXiv 2212.10650), section 3: the product B A
of LoRA becomes s (A kron B), on q and v of every block. Its rank is rank(A) rank(B), not the number of columns of a factor;
with A (32, 24) and B (24, 32) it has the weights of a LoRA of rank 1, 36,864 on ViT-B, and rank up to 576.

The product is never formed in training: with x as a matrix X (a2, b2), row by row, (A kron B) x is A X B^T. No code of the
authors is published; A starts Kaiming-uniform and B at zero, so that training starts at the backbone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, not_linear, wide
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Length, Positive


@dataclass(frozen=True, kw_only=True)
class KronAConfig(MethodConfig):
    """`scale` s, which the paper tunes per task; `a_shape`: rows and columns of A, which divide a layer's output and input.

    None takes the fewest weights: the factors of the widths next to their roots, as (32, 24) for 768 and 768.
    """

    sites: Sites = ("q", "v")
    scale: Positive = 1.0
    a_shape: Annotated[tuple[Count, ...], Length(at_least=2, at_most=2)] | None = None


def _near_root(width: int) -> int:
    """The largest divisor of `width` up to its root."""
    return max(n for n in range(1, math.isqrt(width) + 1) if width % n == 0)


def _a_shape(config: KronAConfig, site: Site) -> tuple[int, int]:
    """Rows and columns of A at a site: tall, so that B is wide and the two have as many weights."""
    if config.a_shape is not None:
        return config.a_shape[0], config.a_shape[1]
    return site.dim_out // _near_root(site.dim_out), _near_root(site.dim)


@register(
    "krona",
    KronAConfig,
    paper="Edalati et al., 2022 (arXiv 2212.10650)",
    properties=Properties(inference_efficient=True),
    weights="4 * L * d",
)
class KronA(SiteModule):
    """y + s (A kron B) x; A (a1, a2), B (b1, b2) with a1 b1 = out and a2 b2 = in."""

    def __init__(self, config: KronAConfig, site: Site) -> None:
        super().__init__(config, site)
        rows, columns = _a_shape(config, site)
        self.scale = config.scale
        self.A = nn.Parameter(torch.empty(rows, columns))
        self.B = nn.Parameter(torch.zeros(site.dim_out // rows, site.dim // columns))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x (..., in), y (..., out) -> (..., out)."""
        grid = x.unflatten(-1, (self.A.shape[1], self.B.shape[1]))  # X (..., a2, b2)
        product = nn.functional.linear((grid @ self.B.T).transpose(-1, -2), self.A)  # (A X B^T)^T (..., b1, a1)
        return torch.add(y, product.transpose(-1, -2).flatten(-2), alpha=self.scale)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + s (A kron B), computed in float32 at least."""
        delta = torch.kron(wide(self.A), wide(self.B))
        return (wide(weight) + self.scale * delta).to(weight.dtype), bias

    @staticmethod
    def unsupported(config: Any, sites: Any) -> str | None:
        """A linear layer, whose widths the shape of A divides."""
        if other := not_linear(sites):
            return other
        for site in sites:
            rows, columns = _a_shape(config, site)
            if site.dim_out % rows or site.dim % columns:
                return (
                    f"a_shape={config.a_shape} must divide a layer's output and input, {site.key} has {site.dim_out} and "
                    f"{site.dim}"
                )
        return None
