"""FacT: the increments of all linear layers as one tensor, factorised, with factors shared by the whole model.

Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", AAAI 2023 (arXiv 2212.03145),
sections 3.2 (tensor train) and 3.3 (Tucker). Every d x d slice of the increment is s V M U: U (r, d) and V (d, r) belong
to the model, the core M (r, r) to the slice. q, k, v and proj are one slice each, fc1 and fc2 `mlp_ratio` slices.

The Tucker variant uses slice g of the core for group g of fc1 and fc2, as the paper reads; the authors' code reshapes the
slices (r, r, g) to (r, g r) without a permutation, so that a group has columns of all slices (same count, a slightly different
model): `layout="code"`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.product import add_product
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive, Rate

SLICED = ("q", "k", "v", "proj", "fc1", "fc2")


@dataclass(frozen=True, kw_only=True)
class FacTTTConfig(MethodConfig):
    """`rank` r; `scale` s multiplies the increment (the paper tunes it per task in 0.01 ... 100); `dropout` before V."""

    sites: Sites = SLICED
    rank: Count = 16
    scale: Positive = 1.0
    dropout: Rate = 0.1


@dataclass(frozen=True, kw_only=True)
class FacTTKConfig(FacTTTConfig):
    """As the tensor train; all three Tucker ranks are `rank`. `layout` of the slices of fc1 and fc2: `slices` or `code`."""

    rank: Count = 32
    layout: Literal["slices", "code"] = "slices"


def _width(sites: Sequence[Site]) -> int:
    return min(min(s.dim, s.dim_out) for s in sites)


def _groups(site: Site, width: int) -> int:
    return max(site.dim, site.dim_out) // width


class Factors(nn.Module):
    """U and V of the whole model: U (r, d) uniform in +-1/sqrt(d), V (d, r) zero."""

    def __init__(self, config: FacTTTConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        width = _width(sites)
        self.U = nn.Parameter(torch.empty(config.rank, width))
        self.V = nn.Parameter(torch.zeros(width, config.rank))
        nn.init.uniform_(self.U, -1 / math.sqrt(width), 1 / math.sqrt(width))


class TuckerFactors(Factors):
    """U, V, the core C (r, r, r) and the mode matrix P (r, slices of the model), both xavier-uniform."""

    def __init__(self, config: FacTTKConfig, sites: Sequence[Site]) -> None:
        super().__init__(config, sites)
        rank, width = config.rank, _width(sites)
        ratio = max(_groups(site, width) for site in sites)
        slices = sites[0].depth * (4 + 2 * ratio)
        bound = math.sqrt(3) / rank
        self.C = nn.Parameter(torch.empty(rank, rank, rank).uniform_(-bound, bound))
        self.P = nn.Parameter(torch.empty(rank, slices))
        nn.init.xavier_uniform_(self.P)


class _FacT(SiteModule, ABC):
    """What both variants share: x -> s V drop(M U x), with `cores` (groups, r, r) acting on columns."""

    def __init__(self, config: FacTTTConfig, site: Site) -> None:
        super().__init__(config, site)
        self.scale = config.scale
        self.widens = site.dim_out > site.dim  # fc1
        self.groups = _groups(site, min(site.dim, site.dim_out))
        self.factored = self.groups == 1 or not self.widens
        self.dropout = nn.Dropout(config.dropout)

    @abstractmethod
    def cores(self, model: Any) -> torch.Tensor:
        """M of every slice, (groups, r, r)."""

    def factors(self, x: torch.Tensor, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., in) -> drop(M U x) (..., r), or (..., groups, r) where the layer widens, and s V^T (r, d).

        A single core goes into U first, which is smaller than x.
        """
        cores = self.cores(model)
        if self.groups == 1:
            mixed = nn.functional.linear(x, cores[0] @ model.U)
        elif self.widens:
            mixed = nn.functional.linear(nn.functional.linear(x, model.U), cores.flatten(0, 1)).unflatten(
                -1, cores.shape[:2]
            )
        else:
            inner = nn.functional.linear(x.unflatten(-1, (self.groups, -1)), model.U)
            mixed = nn.functional.linear(inner.flatten(-2), cores.transpose(0, 1).flatten(1))
        return self.dropout(mixed), model.V.T * self.scale

    def forward(self, x: torch.Tensor, y: torch.Tensor, model: Any) -> torch.Tensor:
        """x (..., in), y (..., out) -> (..., out); in or out is `groups` times the model's width."""
        left, right = self.factors(x, model)
        return add_product(y.reshape(*left.shape[:-1], -1), left, right).view(y.shape)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + s V M U slice by slice: rows of fc1, columns of fc2."""
        factors: Any = model["model"]
        slices = [wide(factors.V) @ wide(core) @ wide(factors.U) for core in self.cores(factors)]
        delta = torch.cat(slices, dim=0 if self.widens else 1)
        return (wide(weight) + self.scale * delta).to(weight.dtype), bias

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Factors are shared by all slices: one width, and an MLP that is a multiple of it."""
        other = [site.kind for site in sites if site.kind not in SLICED]
        if other:
            return f"it acts on {', '.join(SLICED)}, not on {other[0]!r}"
        if any(not site.matrix for site in sites):
            return f"site {next(s.kind for s in sites if not s.matrix)!r} is not a linear layer"
        if any(
            n > 1 for (_, kind), n in Counter((s.block, s.kind) for s in sites).items() if kind not in ("fc1", "fc2")
        ):
            return "its slices are those of one attention in a block, and these have several side by side"
        width = _width(sites)
        for site in sites:
            if min(site.dim, site.dim_out) != width:
                return f"its factors need one width in all blocks, {site.key} has {site.dim} beside {width}"
            if max(site.dim, site.dim_out) % width:
                return f"its slices need an MLP width that is a multiple of {width}, {site.key} has {max(site.dim, site.dim_out)}"
        return None


@register(
    "fact_tt",
    FacTTTConfig,
    paper="Jie and Deng, AAAI 2023 (arXiv 2212.03145)",
    properties=Properties(inference_efficient=True),
    weights="2 * d * rank + (4 + 2 * m // d) * L * rank ** 2",
)
class FacTTT(_FacT):
    """Tensor train: a free core per slice, initialised as a linear layer of the slice's fan-in."""

    model_module = Factors

    def __init__(self, config: FacTTTConfig, site: Site) -> None:
        super().__init__(config, site)
        fan_in = config.rank if self.widens else config.rank * self.groups
        bound = 1 / math.sqrt(fan_in)
        self.core = nn.Parameter(torch.empty(self.groups, config.rank, config.rank).uniform_(-bound, bound))

    def cores(self, model: Any) -> torch.Tensor:
        """The slice's own cores."""
        return self.core


@register(
    "fact_tk",
    FacTTKConfig,
    paper="Jie and Deng, AAAI 2023 (arXiv 2212.03145)",
    properties=Properties(inference_efficient=True),
    weights="2 * d * rank + rank ** 3 + (4 + 2 * m // d) * L * rank",
)
class FacTTK(_FacT):
    """Tucker: M_j = sum_t C[:, :, t] P[t, j], transposed for all slices but those of fc2."""

    model_module = TuckerFactors

    def __init__(self, config: FacTTKConfig, site: Site) -> None:
        super().__init__(config, site)
        self.kind, self.block, self.depth = site.kind, site.block or 0, site.depth
        self.as_code = config.layout == "code"

    def cores(self, model: Any) -> torch.Tensor:
        """Cores of this site's slices, numbered q 0, k 1, v 2, proj 3, fc1 4..., fc2 after them, block by block."""
        per_block = model.P.shape[1] // self.depth
        ratio = (per_block - 4) // 2
        first = {"q": 0, "k": 1, "v": 2, "proj": 3, "fc1": 4, "fc2": 4 + ratio}[self.kind] + per_block * self.block
        modes = model.P[:, first : first + self.groups]  # (r, groups)
        cores = torch.einsum("abt,tg->abg", model.C, modes)
        if self.as_code:
            cores = cores.reshape(len(cores), self.groups, -1).transpose(0, 1)
        else:
            cores = cores.permute(2, 0, 1)
        return cores if self.kind == "fc2" else cores.transpose(1, 2)
