"""EFFT: increments of all linear layers of like shape as one tensor, decomposed with outer factors that all blocks share.

Chen, "Aggregate, Decompose, and Fine-Tune: A Simple Yet Effective Factor-Tuning Method for Vision Transformer", 2023
(arXiv 2311.06749), EFFT-2, its main variant. Two groups: q, k, v and proj (d, d), and fc1 with fc2 transposed (d, 4 d). The
increment of slice j is s U C_j V, in rows (x -> s x U C_j V; for fc2 s h (U C_j V)^T); U (d, r) and V (r, d or 4 d) belong to the
model, the cores C_j (r, r) to the layers of every block. Published 0.25 M and 0.28 % on ViT-B: 245,760 at rank 32.

The authors' released file has one core for all blocks, `core="shared"`, with fewer weights than published. Dropout is on the
entries of the factors; theirs draws once for q, k, v and proj together, here every layer draws for itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive, Rate

#: the slices of both groups, in the order of the core
GROUPS = {"attention": ("q", "k", "v", "proj"), "mlp": ("fc1", "fc2")}
GROUP_OF = {kind: group for group, kinds in GROUPS.items() for kind in kinds}


@dataclass(frozen=True, kw_only=True)
class EFFTConfig(MethodConfig):
    """`rank` r; `scale` s (0.01 ... 100, tuned per task in the paper); `dropout` on U, C and V.

    `core`: a core for every slice of every block, or `shared` ones for the slices of all blocks. `init`: which outer factor
    starts at zero, v or u, of attention and then of the MLP.
    """

    sites: Sites = tuple(GROUP_OF)
    rank: Count = 32
    scale: Positive = 1.0
    dropout: Rate = 0.1
    core: Literal["per_block", "shared"] = "per_block"
    init: Literal["vv", "vu", "uv", "uu"] = "vv"


def _shape(site: Site) -> tuple[int, int]:
    """Of a layer's increment, (in, out), that of fc2 transposed."""
    return (site.dim_out, site.dim) if site.kind == "fc2" else (site.dim, site.dim_out)


def _xavier(rank: int, slices: int) -> nn.Parameter:
    """One slice (r, r) of a core (r, r, slices), xavier-uniform as a whole."""
    bound = math.sqrt(6 / (2 * rank * slices))
    return nn.Parameter(torch.empty(rank, rank).uniform_(-bound, bound))


class OuterFactors(nn.Module):
    """U (d, r) and V (r, d or 4 d) of both groups, one of them xavier-uniform and the other zero; shared cores, if any."""

    def __init__(self, config: EFFTConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        self.U, self.V, self.C = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for (group, kinds), zero in zip(GROUPS.items(), config.init, strict=True):
            own = [site for site in sites if site.kind in kinds]
            if not own:
                continue
            rows, columns = _shape(own[0])
            self.U[group] = nn.Parameter(torch.zeros(rows, config.rank))
            self.V[group] = nn.Parameter(torch.zeros(config.rank, columns))
            nn.init.xavier_uniform_((self.U if zero == "v" else self.V)[group])
            if config.core == "shared":
                self.C.update(
                    {kind: _xavier(config.rank, len(kinds)) for kind in kinds if kind in {s.kind for s in own}}
                )


@register(
    "efft",
    EFFTConfig,
    paper="Chen, 2023 (arXiv 2311.06749)",
    properties=Properties(inference_efficient=True),
    weights="6 * L * rank ** 2 + (3 * d + m) * rank",
)
class EFFT(SiteModule):
    """y + s x U C V, or for fc2 y + s x V^T C^T U^T, with dropout on the factors."""

    model_module = OuterFactors
    factored = True

    def __init__(self, config: EFFTConfig, site: Site) -> None:
        super().__init__(config, site)
        self.kind, self.outer, self.scale = site.kind, GROUP_OF[site.kind], config.scale
        slices = len(GROUPS[self.outer]) * site.depth
        self.core = _xavier(config.rank, slices) if config.core == "per_block" else None
        self.dropout = nn.Dropout(config.dropout)

    def factors(self, x: torch.Tensor, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., in) -> x U C (..., r) and s V (r, out), all three with dropout; for fc2 x V^T C^T and s U^T."""
        u, core, v = (self.dropout(factor) for factor in self._factors(model))
        return (x @ v.T @ core.T, self.scale * u.T) if self.kind == "fc2" else (x @ u @ core, self.scale * v)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W + s (U C V)^T, for fc2 W + s U C V, computed in float32 at least."""
        u, core, v = (wide(factor) for factor in self._factors(model["model"]))
        delta = self.scale * u @ core @ v
        return (wide(weight) + (delta if self.kind == "fc2" else delta.T)).to(weight.dtype), bias

    def _factors(self, model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """U, C and V of this layer."""
        core = model.C[self.kind] if self.core is None else self.core
        return model.U[self.outer], core, model.V[self.outer]

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Outer factors are shared by all layers of a group: one shape in each."""
        shapes: dict[str, tuple[int, int]] = {}
        for site in sites:
            if site.kind not in GROUP_OF:
                return f"it acts on {', '.join(GROUP_OF)}, not on {site.kind!r}"
            if not site.matrix:
                return f"site {site.kind!r} is not a linear layer"
            shape = _shape(site)
            first = shapes.setdefault(GROUP_OF[site.kind], shape)
            if shape != first:
                return f"its factors need one shape in all blocks, {site.key} has {shape} beside {first}"
        several = Counter((site.block, site.kind) for site in sites)
        if config.core == "shared" and (repeated := [kind for (_, kind), n in several.items() if n > 1]):
            return f"core='shared' is one core for {repeated[0]} of all blocks, and here a block has several of them"
        return None
