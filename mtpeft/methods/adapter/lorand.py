"""LoRand: adapters behind attention and MLP whose projections are sums of low-rank products.

Yin et al., "1% VS 100%: Parameter-Efficient Low Rank Adapter for Dense Predictions", CVPR 2023, section 3. Both projections
of an adapter share the kernels in the middle of their products. LoRand+ has `branches=4`, LoRand++ `rank=16` as well.
The released code of a later paper by the same authors, where LoRand is a baseline, gives each projection kernels of its
own: `share_kernel=False`. Swin-B has 1,197,312 weights in LoRand, published as 1.20 M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import affine_factors
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count


@dataclass(frozen=True, kw_only=True)
class LoRandConfig(MethodConfig):
    """`branches` alpha products in each sum, of `rank` beta; hidden width m = d / `reduction`.

    `share_kernel`: one set of kernels for both projections. `init` of the last factor: `kaiming` as all others, or `zeros`,
    so that the model is its own at the start (not in the paper).
    """

    sites: Sites = ("after_attention", "after_mlp")
    branches: Count = 2
    rank: Count = 8
    reduction: Count = 2
    share_kernel: bool = True
    init: Literal["kaiming", "zeros"] = "kaiming"


class Factors(nn.Module):
    """P (alpha, in, beta) and Q (alpha, beta, out) of W = sum_i P_i K_i Q_i, with K (alpha, beta, beta) unless it is shared."""

    def __init__(self, config: LoRandConfig, dim: int, dim_out: int, kernel: bool) -> None:
        super().__init__()
        branches, rank = config.branches, config.rank
        self.P = _uniform(branches, dim, rank)
        self.K = _uniform(branches, rank, rank) if kernel else None
        self.Q = _uniform(branches, rank, dim_out)
        self.bias = nn.Parameter(torch.empty(dim_out).uniform_(-1 / math.sqrt(dim), 1 / math.sqrt(dim)))

    def inner(self, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> [x P_1 K_1, x P_2 K_2, ...] (..., alpha beta)."""
        projected = x @ self.P.transpose(0, 1).flatten(1)
        return torch.einsum("...ab,abc->...ac", projected.unflatten(-1, self.P.shape[::2]), kernel).flatten(-2)

    def outer(self) -> torch.Tensor:
        """[Q_1, Q_2, ...] (alpha beta, out)."""
        return self.Q.flatten(0, 1)


def _uniform(branches: int, rows: int, columns: int) -> nn.Parameter:
    """Kaiming-uniform(a = sqrt 5) of every branch: within +-1 / sqrt(columns)."""
    bound = 1 / math.sqrt(columns)
    return nn.Parameter(torch.empty(branches, rows, columns).uniform_(-bound, bound))


@register(
    "lorand",
    LoRandConfig,
    paper="Yin et al., CVPR 2023",
    properties=Properties(identity_at_init=False),
    weights="2 * L * (branches * (2 * rank * (d + k) + rank ** 2) + d + k) where k = d // reduction",
)
class LoRand(SiteModule):
    """h + gelu(h W_down + b_d) W_up + b_u, each W a sum of products P_i K_i Q_i."""

    factored = True

    def __init__(self, config: LoRandConfig, site: Site) -> None:
        super().__init__(config, site)
        hidden = max(1, site.dim // config.reduction)
        self.down = Factors(config, site.dim, hidden, kernel=True)
        self.up = Factors(config, hidden, site.dim, kernel=not config.share_kernel)
        if config.init == "zeros":
            nn.init.zeros_(self.up.Q)
            nn.init.zeros_(self.up.bias)

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., d) -> [z P'_i K_i, 1] (..., alpha beta + 1), z the hidden units, and [Q'_i, b_u] (alpha beta + 1, d)."""
        kernel: Any = self.down.K
        down = self.down.inner(x, kernel) @ self.down.outer() + self.down.bias
        left = self.up.inner(nn.functional.gelu(down), kernel if self.up.K is None else self.up.K)
        return affine_factors(left, self.up.outer().T, self.up.bias)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """It stands behind a branch and gives back the width it reads."""
        other = sorted({site.kind for site in sites} - {"after_attention", "after_mlp"})
        return (
            f"it cannot act at the sites {', '.join(other)}, only at after_attention and after_mlp" if other else None
        )
