"""LoRA: a trainable product of two thin matrices added to frozen linear weights.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685), section 4.1, equation 3.
Vision practice: q and v of every block, scale 1 (NOAH, V-PETL Bench). With `sites=("qkv",)` one A per block serves q, k
and v together, as NOAH's code does; the count is the same. `lr_ratio` is LoRA+ (Hayou, Ghosh and Yu, "LoRA+: Efficient Low
Rank Adaptation of Large Models", ICML 2024, arXiv 2402.12354, section 4).

rsLoRA (Kalajdzievski 2023, arXiv 2312.03732, section 3) divides alpha by sqrt(r), so that neither activations nor gradients
shrink as the rank grows: `rank_stabilized`. At equal alpha its scale is sqrt(r) times that of LoRA.

PiSSA (Meng, Wang, Zhang, NeurIPS 2024, arXiv 2404.02948, section 3) starts A and B at the r principal singular triples of W,
and freezes the rest W - s B0 A0: `init="pissa"`. The backbone stays as it is: what is added is s (B A - B0 A0), nothing at the
start, with A0 and B0 kept once for all tasks. Weight decay then pulls towards that rest, not towards W.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, not_linear, wide
from mtpeft.methods.group import PLAIN, Group
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive, Rate

#: power iterations of `pissa_fast`, and how many more vectors than wanted it looks for
ITERATIONS, MORE = 16, 10


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(MethodConfig):
    """`rank` r; `alpha` (None: alpha = rank, so that the scale alpha / rank is 1); `dropout` on the input of A.

    `rank_stabilized`: the scale is alpha / sqrt(rank) (rsLoRA). `learnable_scale` multiplies the product by a trained scalar
    that starts at 1 (LAE, ICCV 2023, section 3.2). `lr_ratio`: the learning rate of B as a multiple of A's, which is the
    optimiser's (LoRA+: 16). `init`: `lora` (A random, B zero), `pissa` (A and B at the principal singular vectors of the
    weight), or `pissa_fast` (the same by a randomised decomposition).
    """

    sites: Sites = ("q", "v")
    rank: Count = 8
    alpha: Positive | None = None
    dropout: Rate = 0.0
    rank_stabilized: bool = False
    learnable_scale: bool = False
    lr_ratio: Positive = 1.0
    init: Literal["lora", "pissa", "pissa_fast"] = "lora"

    @property
    def scale(self) -> float:
        """s, which multiplies B A."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


class Principal(nn.Module):
    """A0 (r, in) and B0 (out, r) of every site, by its key: s B0 A0 is the best approximation of rank r to its weight."""

    def __init__(self, config: LoRAConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        for site in sites:
            a, b = _principal(wide(site.own_weight()), config)
            for name, tensor in (("A", a), ("B", b)):
                self.register_buffer(f"{site.key}_{name}", tensor.contiguous())

    def start(self, key: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A0 and B0 of site `key`."""
        return getattr(self, f"{key}_A"), getattr(self, f"{key}_B")


def _principal(weight: torch.Tensor, config: LoRAConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """W = U diag(S) V^T cut to rank r -> sqrt(S / s) V^T and U sqrt(S / s) (PiSSA, equations 2 and 3, over the scale s)."""
    if config.init == "pissa_fast":
        u, values, v = torch.svd_lowrank(weight, q=min(config.rank + MORE, *weight.shape), niter=ITERATIONS)
        vh = v.T
    else:
        u, values, vh = torch.linalg.svd(weight, full_matrices=False)
    root = (values[: config.rank] / config.scale).sqrt()
    return root.unsqueeze(1) * vh[: config.rank], u[:, : config.rank] * root


@register(
    "lora",
    LoRAConfig,
    paper="Hu et al., ICLR 2022 (arXiv 2106.09685)",
    properties=Properties(inference_efficient=True),
    weights="4 * L * d * rank",
)
class LoRA(SiteModule):
    """y + s B A drop(x); A (r, in) kaiming-uniform, B (out, r) zero, so that training starts at the backbone."""

    factored = True
    peft_type: ClassVar[str | None] = "LORA"
    beside: ClassVar[Mapping[str, int | None]] = {"lora_A": 0, "lora_B": 1}

    def __init__(self, config: LoRAConfig, site: Site, constants: Any = None) -> None:
        super().__init__(config, site)
        self.key = site.key
        self.lora_A = nn.Parameter(torch.empty(config.rank, site.dim))
        self.lora_B = nn.Parameter(torch.zeros(site.dim_out, config.rank))
        if constants is None:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        else:
            self.lora_A, self.lora_B = (nn.Parameter(t.detach().clone()) for t in constants.start(site.key))
        self.constant = config.scale
        self.scale = nn.Parameter(torch.ones(())) if config.learnable_scale else None
        self.dropout = nn.Dropout(config.dropout)

    def product(self, constants: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What is added to the weight, as a product: left (out, k) and right (k, in).

        s B and A; under PiSSA s (B A - B0 A0) = s B (A - A0) + s (B - B0) A0, which is exactly zero at the start.
        """
        if constants is None:
            return self._scaled(self.lora_B), self.lora_A
        a, b = constants.start(self.key)
        left = self._scaled(self.lora_B)
        start = b if self.constant == 1.0 else b * self.constant
        return torch.cat([left, left - start], dim=1), torch.cat([self.lora_A - a, a])

    def factors(self, x: torch.Tensor, constants: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., in) -> A drop(x) (..., r), and B^T with the scale (r, out); under PiSSA both of 2 r."""
        left, right = self.product(constants)
        return nn.functional.linear(self.dropout(x), right), left.T

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, constants: Any = None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + s B A, computed in float32 at least."""
        left, right = self.product(constants)
        return (wide(weight) + wide(left) @ wide(right)).to(weight.dtype), bias

    @staticmethod
    def constants(config: Any, sites: Sequence[Site]) -> nn.Module | None:
        """Where A and B start under PiSSA."""
        return None if config.init == "lora" else Principal(config, sites)

    @staticmethod
    def unsupported(config: Any, sites: Any) -> str | None:
        """A low-rank product needs a linear layer, and a principal one no higher rank than the layer has."""
        if other := not_linear(sites):
            return other
        small = [site for site in sites if min(site.dim, site.dim_out) < config.rank and config.init != "lora"]
        if small:
            least = min(small[0].dim, small[0].dim_out)
            return f"init={config.init!r} needs {config.rank} singular vectors (rank), {small[0].key} has {least}"
        return None

    @staticmethod
    def group(config: Any, name: str) -> Group:
        """B learns at `lr_ratio` times the rate."""
        return Group(rate=config.lr_ratio) if name == "lora_B" else PLAIN

    def _scaled(self, delta: torch.Tensor) -> torch.Tensor:
        delta = delta if self.constant == 1.0 else delta * self.constant
        return delta if self.scale is None else delta * self.scale
