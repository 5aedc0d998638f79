"""VeRA: low-rank updates whose matrices are random, frozen and the same for all layers; two vectors per layer are trained.

Kopiczko, Blankevoort, Asano, "VeRA: Vector-based Random Matrix Adaptation", ICLR 2024 (arXiv 2310.11454), section 3.1,
equation 2: the increment of a weight is diag(b) B diag(d) A. A layer smaller than the largest one takes the leading columns
of A and the leading rows of B. Published on ViT-B with q and v at rank 256: 24,576 weights.

A and B follow from the seed and the largest layer, so a checkpoint holds neither (`save_projections` puts them in). The cost of
a step is at most that of a LoRA of the same rank; the papers train the vectors at about ten times the rate of LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, not_linear, wide
from mtpeft.methods.product import add_product
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive, Rate, WholeNumber


@dataclass(frozen=True, kw_only=True)
class VeRAConfig(MethodConfig):
    """`rank` r; `d_initial` what d starts as; `dropout` on the input of A; `seed` of A and B.

    `save_projections`: A and B are saved with the trained vectors, and do not depend on how a version of torch draws numbers.
    """

    sites: Sites = ("q", "v")
    rank: Count = 256
    d_initial: Positive = 0.1
    dropout: Rate = 0.0
    seed: WholeNumber = 0
    save_projections: bool = False


class Projections(nn.Module):
    """A (r, largest in) and B (largest out, r), Kaiming-uniform of gain sqrt(2), drawn in this order."""

    def __init__(self, config: VeRAConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        shapes = {"A": (config.rank, max(s.dim for s in sites)), "B": (max(s.dim_out for s in sites), config.rank)}
        generator = torch.Generator("cpu").manual_seed(config.seed)
        for name, shape in shapes.items():
            bound = math.sqrt(6 / shape[1])
            drawn = torch.empty(shape, device="cpu", dtype=torch.float32).uniform_(-bound, bound, generator=generator)
            self.register_buffer(name, drawn, persistent=config.save_projections)


@register(
    "vera",
    VeRAConfig,
    paper="Kopiczko et al., ICLR 2024 (arXiv 2310.11454)",
    properties=Properties(inference_efficient=True),
    weights="2 * L * (rank + d)",
)
class VeRA(SiteModule):
    """y + b o B (d o A drop(x)); d (r,) starts at 0.1, b (out,) at zero, so that training starts at the backbone."""

    factored = True
    trains_by_forward = True

    def __init__(self, config: VeRAConfig, site: Site, constants: Any = None) -> None:
        super().__init__(config, site)
        self.dim, self.dim_out = site.dim, site.dim_out
        self.d = nn.Parameter(torch.full((config.rank,), config.d_initial))
        self.b = nn.Parameter(torch.zeros(site.dim_out))
        self.dropout = nn.Dropout(config.dropout)
        self.made = config.rank * site.dim_out

    def factors(self, x: torch.Tensor, constants: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., in) -> d o A drop(x) (..., r), and (diag(b) B)^T (r, out)."""
        a, b = self._slices(constants)
        return nn.functional.linear(self.dropout(x), a) * self.d, (self.b.unsqueeze(1) * b).T

    def forward(self, x: torch.Tensor, y: torch.Tensor, constants: Any) -> torch.Tensor:
        """The same sum for training: by the increment as a matrix (out, in) where r is so large that this is less work.

        Else the gradient of b is one by elements of B d A x, where the product's would be one of a whole (out, r).
        """
        a, b = self._slices(constants)
        if self._dense(x.shape[:-1].numel()):
            return add_product(y, self.dropout(x), ((self.b.unsqueeze(1) * b) @ (self.d.unsqueeze(1) * a)).T)
        more = nn.functional.linear(nn.functional.linear(self.dropout(x), a) * self.d, b)
        return torch.addcmul(y, more.to(y.dtype), self.b.to(y.dtype))

    def _dense(self, rows: int) -> bool:
        """Whether products with the increment (out, in), its own and their gradients, are fewer than those with A and B."""
        rank, size = len(self.d), self.dim * self.dim_out
        return 3 * (rows + rank) * size < 2 * rows * rank * (self.dim + self.dim_out)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, constants: Any = None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + diag(b) B diag(d) A, computed in float32 at least."""
        a, b = (wide(part) for part in self._slices(constants))
        delta = (wide(self.b).unsqueeze(1) * b) @ (wide(self.d).unsqueeze(1) * a)
        return (wide(weight) + delta).to(weight.dtype), bias

    @staticmethod
    def constants(config: Any, sites: Sequence[Site]) -> nn.Module | None:
        """The matrices that all layers and tasks share."""
        return Projections(config, sites)

    @staticmethod
    def unsupported(config: Any, sites: Any) -> str | None:
        """A low-rank product needs a linear layer."""
        return not_linear(sites)

    def _slices(self, constants: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """A (r, in) and B (out, r) of this layer."""
        return constants.A[:, : self.dim], constants.B[: self.dim_out]
