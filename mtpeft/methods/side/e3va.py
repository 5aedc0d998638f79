"""E3VA: low-rank adapters along a gradient highway beside the frozen backbone, fed by its branches; made for dense tasks.

Yin et al., "Parameter-efficient is not sufficient: Exploring Parameter, Memory, and Time Efficient Adapter Tuning for Dense
Predictions", ACM MM 2024 (arXiv 2306.09729), section 3. What leaves attention and MLP of every block, before the residual
addition and without a gradient, goes through an adapter into the highway h, which starts as the first block's input. It
crosses the stages by the backbone's own frozen patch merging, and trained norms stand between it and the heads: one for
each stage of a pyramid, and the final one. A plain transformer's quarters, which have no norm, are read without one.

No code was published. The parallel form, the highway, the double low rank and the trained norms are the paper's words and
figure; widths follow from its counts (1.20 M on Swin-B, 1.79 M on Swin-L). The last factor starts at zero, so that h is at
first the backbone's own stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.copies import hookless_copy
from mtpeft.backbones.site import CHANGED, NEEDS, Site
from mtpeft.backbones.site_builder import is_norm
from mtpeft.errors import ConfigError
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.side.maps import map_of
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count

BRANCHES = ("after_attention", "after_mlp")


@dataclass(frozen=True, kw_only=True)
class E3VAConfig(MethodConfig):
    """`rank` k of both projections of an adapter; its hidden width is the block's width divided by `reduction`."""

    sites: Sites = ("entry", *BRANCHES, "block", "features", "final_norm", "scales")
    rank: Count = 16
    reduction: Count = 2


class DualLowRank(nn.Module):
    """A(z) = z + gelu(z P_d Q_d + b_d) P_u Q_u + b_u; Q_u and both biases zero at the start."""

    def __init__(self, dim: int, hidden: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, hidden))
        self.up = nn.Sequential(nn.Linear(hidden, rank, bias=False), nn.Linear(rank, dim))
        for tensor in (self.down[1].bias, self.up[1].weight, self.up[1].bias):
            nn.init.zeros_(tensor)  # type: ignore[arg-type]

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(..., d) -> (..., d)."""
        return z + self.up(nn.functional.gelu(self.down(z)))


@register(
    "e3va",
    E3VAConfig,
    paper="Yin et al., ACM MM 2024 (arXiv 2306.09729)",
    properties=Properties(memory_efficient=True),
    weights="2 * d + 2 * L * (2 * rank * (d + k) + d + k) where k = d // reduction",
)
class E3VA(SiteModule):
    """h = x_0;  h <- h + A1_l(a_l) + A2_l(m_l), a_l and m_l what block l's branches give;  out_s = Norm_s(h) at stage ends.

    The state is h, and h as it was at the end of every stage before.
    """

    stateful: ClassVar[bool] = True
    styles: ClassVar[tuple[str, ...]] = (*CHANGED, "features", "scales")

    def __init__(self, config: E3VAConfig, site: Site) -> None:
        super().__init__(config, site)
        self.site = site
        if site.kind in BRANCHES:
            self.adapter = DualLowRank(site.dim, site.dim // config.reduction, config.rank)
        elif site.kind in ("features", "final_norm"):
            self.norm = hookless_copy(site.module)
        elif site.kind == "scales":
            widths = [stage.dim for stage in site.stages[:-1]]
            self.norms = nn.ModuleList(nn.LayerNorm(w, eps=1e-5) if site.pyramid else nn.Identity() for w in widths)

    def forward(self, x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The stream y stays as it is, until the highway takes the place of the final features and of the maps."""
        kind = self.site.kind
        if kind == "scales":
            return self.maps(x, *rest)
        y, *state = rest
        if kind == "entry":
            return y, x.detach()
        if kind == "final_norm":  # behind the pooling
            return self.norm(x), *state
        h, *ends = state
        if kind == "features":
            return self.norm(h), h, *ends
        if kind == "block":  # the end of a stage
            return y, h, *ends, h
        if kind == "after_attention" and self.site.merging is not None:
            h = self.site.merging(h)
        return y, h + self.adapter(x.detach()).reshape(h.shape), *ends

    def maps(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The maps of the stages, of which the last one is the highway's already, and the state -> maps (B, C, H, W)."""
        own, (_, *ends) = inputs[: len(self.norms) + 1], inputs[len(self.norms) + 1 :]
        return *(map_of(self.site, norm(end)) for norm, end in zip(self.norms, ends, strict=True)), own[-1]

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Entry of the first block, both branches of all, ends of the stages but the last, and norms where they are used."""
        ends = {stage.block for stage in sites[0].stages[:-1]} if sites else set()
        pooled_first = any(site.kind == "features" and isinstance(site.module, nn.Identity) for site in sites)
        keep = {
            "entry": lambda site: site.block == 0,
            "block": lambda site: site.block in ends,
            "final_norm": lambda site: pooled_first,
        }
        in_place = {site.block for site in every if site.kind == "parallel_attn"}
        if any(site.block not in in_place for site in sites if site.kind in BRANCHES):
            raise ConfigError(f"it needs {NEEDS['parallel_attn']}")
        return [site for site in sites if keep.get(site.kind, lambda _: True)(site)]

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """The highway follows the stream from the first block to the final norm, and from stage to stage."""
        foreign = sorted({site.kind for site in sites} - set(E3VAConfig().sites))
        if foreign:
            return f"it cannot act at the sites {', '.join(foreign)}"
        depth = sites[0].depth
        there = {(site.kind, site.block) for site in sites}
        needed = {("entry", 0), ("features", None), *((kind, block) for kind in BRANCHES for block in range(depth))}
        if missing := sorted(f"{kind} of block {block}" for kind, block in needed - there):
            return f"its highway follows the whole stream; left out: {', '.join(missing[:2])} ({len(missing)} in all)"
        if any(site.place == 0 and site.block and site.merging is None for site in sites):
            return "between its stages it needs patch merging that maps (B, H, W, C) to half the size"
        final = next(site.module for site in sites if site.kind == "features")
        if not (is_norm(final) or isinstance(final, nn.Identity)):
            return f"it needs a norm behind the last block, and there is {type(final).__name__}"
        return None
