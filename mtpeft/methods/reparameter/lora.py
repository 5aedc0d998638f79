"""LoRA: a trainable product of two thin matrices added to frozen linear weights.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685), section 4.1, equation 3.
Vision practice: q and v of every block, scale 1 (NOAH, V-PETL Bench). With `sites=("qkv",)` one A per block serves q, k
and v together, as NOAH's code does; the count is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, Properties, SiteModule, Sites, register, wide
from mtpeft.options import Count, Positive, Rate


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(MethodConfig):
    """`rank` r; `alpha` (None: alpha = rank, so that the scale alpha / rank is 1); `dropout` on the input of A.

    `learnable_scale` multiplies the product by a trained scalar that starts at 1 (LAE, ICCV 2023, section 3.2).
    """

    sites: Sites = ("q", "v")
    rank: Count = 8
    alpha: Positive | None = None
    dropout: Rate = 0.0
    learnable_scale: bool = False


@register(
    "lora",
    LoRAConfig,
    paper="Hu et al., ICLR 2022 (arXiv 2106.09685)",
    properties=Properties(inference_efficient=True),
)
class LoRA(SiteModule):
    """y + (alpha / r) * B A drop(x); A (r, in) kaiming-uniform, B (out, r) zero, so that training starts at the backbone."""

    factored = True
    peft_type: ClassVar[str | None] = "LORA"

    def __init__(self, config: LoRAConfig, site: Site) -> None:
        super().__init__(config, site)
        self.lora_A = nn.Parameter(torch.empty(config.rank, site.dim))
        self.lora_B = nn.Parameter(torch.zeros(site.dim_out, config.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.constant = 1.0 if config.alpha is None else config.alpha / config.rank
        self.scale = nn.Parameter(torch.ones(())) if config.learnable_scale else None
        self.dropout = nn.Dropout(config.dropout)

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., in) -> A drop(x) (..., r), and B^T with the scale (r, out)."""
        return nn.functional.linear(self.dropout(x), self.lora_A), self._scaled(self.lora_B).T

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + (alpha / r) B A, computed in float32 at least."""
        delta = self._scaled(wide(self.lora_B) @ wide(self.lora_A))
        return (wide(weight) + delta).to(weight.dtype), bias

    @staticmethod
    def unsupported(config: Any, sites: Any) -> str | None:
        """A low-rank product needs a linear layer."""
        other = [site.kind for site in sites if not site.matrix]
        return f"site {other[0]!r} is not a linear layer; use q, k, v, qkv, proj, fc1 or fc2" if other else None

    def _scaled(self, delta: torch.Tensor) -> torch.Tensor:
        delta = delta if self.constant == 1.0 else delta * self.constant
        return delta if self.scale is None else delta * self.scale
