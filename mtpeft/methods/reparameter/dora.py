"""DoRA: a frozen weight taken apart into lengths and directions; LoRA turns the directions, the lengths are trained.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024 (arXiv 2402.09353), section 4.1, equation 5:
W' = m (W + s B A) / ||W + s B A||, with one length per output unit (a column in the paper, whose weights are transposed, a
row here). No gradient flows through the norm (section 4.3, equation 11), which changes hardly any result and saves memory.

V = W + s B A is never formed. With L = s B, of rank r, the squared length of its rows is
||V||^2 = ||W||^2 + 2 (L o W A^T) 1 + (L A A^T o L) 1, a product of (out, in) and (in, r) and what is narrower; and as the frozen
layer's output y = W x + b is there, W' x + b = y + (m / n - 1) (y - b) + (m / n) L A x.

Dropout acts on the input of A alone, as in LoRA; the authors' code drops the input of W in the second term as well. No weight
decay acts on m, as on every vector: it would pull lengths to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import affine_factors
from mtpeft.methods.base import wide
from mtpeft.methods.precision import without_autocast
from mtpeft.methods.product import add_product
from mtpeft.methods.reparameter.lora import LoRA, LoRAConfig
from mtpeft.methods.spec import Properties, register

#: the smallest length of a row that is divided by
LEAST = 1e-12


@dataclass(frozen=True, kw_only=True)
class DoRAConfig(LoRAConfig):
    """As LoRA, whose options `rank`, `alpha`, `rank_stabilized`, `init` and `dropout` are those of the directions.

    `detach_norm`: the norm is a constant in the backward pass (section 4.3).
    """

    detach_norm: bool = True


def row_norms(weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """||weight + left @ right|| of every row: weight (out, in), left (out, k), right (k, in) -> (out,) of type `dtype`."""
    with without_autocast(weight):
        own = torch.linalg.vector_norm(weight, dim=1, dtype=torch.promote_types(weight.dtype, torch.float32))
        across = wide(weight @ right.to(weight.dtype).T)
        left, right = wide(left), wide(right)
        squared = own.square() + (left * (2 * across + left @ (right @ right.T))).sum(1)
        return squared.clamp(min=LEAST**2).sqrt().to(dtype)


@register(
    "dora",
    DoRAConfig,
    paper="Liu et al., ICML 2024 (arXiv 2402.09353)",
    properties=Properties(inference_efficient=True),
    weights="2 * L * (2 * d * rank + d)",
)
class DoRA(LoRA):
    """m (W + s B A) / ||W + s B A|| in the place of W; m (out,) starts as the lengths of W's rows, so that W' is W."""

    factored = False
    peft_type: ClassVar[str | None] = None

    def __init__(self, config: DoRAConfig, site: Site, constants: Any = None) -> None:
        super().__init__(config, site, constants)
        self.site, self.detach_norm = site, config.detach_norm
        left, right = super().product(constants)
        weight = site.own_weight().to(left.device)  # which may know shapes alone, to count weights
        own = row_norms(weight, left.detach().to(weight), right.detach().to(weight), weight.dtype)
        self.magnitude = nn.Parameter(own)

    def forward(self, x: torch.Tensor, y: torch.Tensor, constants: Any = None) -> torch.Tensor:
        """x (..., in), y = W x + b (..., out) -> W' x + b (..., out)."""
        left, right = self.product(constants)
        gain, bias = self._gain(left, right), self.site.output_bias()
        more, left, inner = gain - 1, gain.unsqueeze(1) * left, nn.functional.linear(self.dropout(x), right)
        factors = (inner, left.T) if bias is None else affine_factors(inner, left, -more * bias)
        return add_product(torch.addcmul(y, y, more.to(y.dtype)), *factors)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, constants: Any = None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """m / n (W + s B A); what methods folded before have added to the bias is stretched like their outputs."""
        left, right = self.product(constants)
        gain, own = wide(self._gain(left, right)), self.site.output_bias()
        new = gain.unsqueeze(1) * (wide(weight) + wide(left) @ wide(right))
        if bias is not None:
            start = torch.zeros_like(bias) if own is None else own
            bias = (wide(start) + gain * (wide(bias) - wide(start))).to(bias.dtype)
        return new.to(weight.dtype), bias

    def _gain(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """m / n, (out,), n the length of every row of W + left @ right."""
        if self.detach_norm:
            left, right = left.detach(), right.detach()
        return self.magnitude / row_norms(self.site.own_weight(), left, right, self.magnitude.dtype)
