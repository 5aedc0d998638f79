"""DiffFit: all biases and norms are trained, and new scales on attention's projections and on the residual branches.

Xie et al., "DiffFit: Unlocking Transferability of Large Diffusion Models via Simple Parameter-Efficient Fine-Tuning",
ICCV 2023 (arXiv 2304.06648), section 3.2, made for diffusion transformers; here its scales stand at the same places of a vision
backbone, and the task's head takes the place of the class embedding. Every scale multiplies what a layer gives, its bias
included: q, k and v, attention's output, and both branches where they are added to the stream. A branch's scale acts on the
branch's last layer, before LayerScale, with which it commutes; two scales meet at attention's output, as in the paper. All
folds into the layers. Weight decay would pull scales to 0, not to 1: keep vectors out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.copies import hookless_copy
from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.spec import Properties, register

PROJECTIONS = ("q", "k", "v", "qkv", "proj")


@dataclass(frozen=True, kw_only=True)
class DiffFitConfig(MethodConfig):
    """`gamma_blocks`: scales in the first half of the blocks, which served best in the paper, or in all.

    `gammas`: on projections and branches (6 d per block), or on the two `branches` alone (2 d).
    """

    sites: Sites = ("biases", "norms", "qkv", "proj", "branch_ends")
    gamma_blocks: Literal["first_half", "all"] = "first_half"
    gammas: Literal["all", "branches"] = "all"

    def num_gammas(self, site: Site) -> int:
        """How many scales act at a site."""
        if site.block is None or (self.gamma_blocks == "first_half" and 2 * site.block >= site.depth):
            return 0
        return (self.gammas == "all" and site.kind in PROJECTIONS) + ("branch_ends" in site.tags)


@register(
    "difffit",
    DiffFitConfig,
    paper="Xie et al., ICCV 2023 (arXiv 2304.06648)",
    properties=Properties(inference_efficient=True),
    weights="3 * d + L * (9 * d + m) + L // 2 * 6 * d",
)
class DiffFit(SiteModule):
    """gamma * f(x), each gamma (C,) of ones at the start, f the layer with its bias, or its norm, trained."""

    styles: ClassVar[tuple[str, ...]] = ("output",)

    def __init__(self, config: DiffFitConfig, site: Site) -> None:
        super().__init__(config, site)
        self.site = site
        self.norm = hookless_copy(site.module) if "norms" in site.tags else None
        own = site.own_bias() if self.norm is None and "biases" in site.tags else None
        self.bias = None if own is None else nn.Parameter(own.detach().clone())
        self.gammas = nn.ParameterList(torch.ones(site.dim_out) for _ in range(config.num_gammas(site)))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Input and output of the layer -> its new output, y with C channels on the site's channel axis."""
        if self.norm is not None:
            y = self.norm(x)
        if self.bias is not None:
            y = y + self.site.broadcast(self._moved(self.bias))
        for gamma in self.gammas:
            y = y * self.site.broadcast(gamma)
        return y

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """diag(gamma) W and gamma b, b moved by what was learned; a norm's trained values replace its own."""
        if self.norm is not None:
            norm: Any = self.norm
            weight, bias = norm.weight.detach(), None if bias is None else norm.bias.detach()
        new_weight, new_bias = wide(weight), None if bias is None else wide(bias)
        if self.bias is not None and new_bias is not None:
            new_bias = new_bias + self._moved(self.bias)
        for gamma in self.gammas:
            new_weight = wide(gamma).view(-1, *[1] * (weight.ndim - 1)) * new_weight
            new_bias = None if new_bias is None else wide(gamma) * new_bias
        return new_weight.to(weight.dtype), None if new_bias is None else new_bias.to(weight.dtype)

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Those with something to train. Where biases of q, k and v are applied apart, so are their scales."""
        apart = {site.attention for site in sites if site.kind == "qkv" and site.bypassed}
        keep = {site.key for site in sites if not (site.kind == "qkv" and site.bypassed)}
        keep |= {s.key for s in every if s.kind in ("q", "k", "v") and s.attention in apart} if apart else set()
        left = [site for site in every if site.key in keep and site.kind not in config.exclude]
        return [site for site in left if site.tags & {"biases", "norms"} or config.num_gammas(site)]

    def _moved(self, bias: torch.Tensor) -> torch.Tensor:
        own = self.site.own_bias()
        assert own is not None
        return bias - own.detach()
