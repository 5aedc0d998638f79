"""DiTASK: singular values of frozen weights moved by a smooth monotone map, one for all tasks and some of each task's own.

Mantri, Schoenlieb, Ribeiro, Baskin, Eliasof, "DiTASK: Multi-Task Fine-Tuning with Diffeomorphic Transformations", CVPR 2025
(arXiv 2502.06029). W = U diag(S) V^T keeps U and V; S becomes f_theta(S), where f_theta is a CPAB diffeomorphism of an
interval: the flow at time 1 of a velocity that is continuous, linear in each of N equal cells and zero at both ends, given by
its N - 1 values at the inner vertices. The update has full rank. qkv is cut into q, k and v, which share one map.

Sites and streams are MTLoRA's, whose code the authors extend: a shared map in every block, and in the last block of a stage
proj, fc1 and fc2 have a map of each task's own, which acts with all of W on the task's stream. The same weights of the
backbone are trained: patch embedding, norms, position tables and patch merging, and decoders read the last stage without the
final norm. On Swin-T with four tasks the maps hold 2,976 weights at N = 32 (3,168 at the 64 and 4 cells of the released
config) and the backbone's own 1,599,546, 1,601,082 with the final norm: 1.60 M of the 1.60 to 1.61 M published.

The paper maps the values; on which interval is our reading: S_1 f(S_i / S_1). The authors' code maps the places of the
sorted spectrum, S'_i = S(f(i / (n - 1))) with S linear between its values, so that it never leaves [S_n, S_1]:
`acts_on="places"`. It also starts at a random map (`init="uniform"`); the identity is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, Taps, not_linear, wide
from mtpeft.methods.reparameter.cpab import displacement
from mtpeft.methods.spec import Properties, register
from mtpeft.methods.task_block import (
    FINAL_NORM,
    TaskBlock,
    backbone_weights_and_merging,
    missing_layers,
    with_final_norm,
)
from mtpeft.options import Range, Rate

#: cells of a map; one cell has no inner vertex
Cells = Annotated[int, Range(at_least=2, at_most=4096)]


@dataclass(frozen=True, kw_only=True)
class DiTASKConfig(MethodConfig):
    """`cells` N of the shared maps, `task_cells` of a task's own; `acts_on`: the singular `values` or their `places` in the
    sorted spectrum; `init`: maps start at the `identity` or `uniform` in +-1 / sqrt(N - 1).

    `dropout` on the whole input of a layer, the frozen product's too, and of a task's first one, as in the authors' code.
    `train_backbone`: also train the patch embedding, norms, relative-position tables and patch merging, as the authors do.
    `final_norm`: heads read the backbone's output behind its final norm, which is trained then too; the authors leave it out.
    """

    sites: Sites = ("qkv", "proj", "fc1", "fc2")
    cells: Cells = 32
    task_cells: Cells = 32
    acts_on: Literal["values", "places"] = "values"
    init: Literal["identity", "uniform"] = "identity"
    dropout: Rate = 0.05
    train_backbone: bool = True
    final_norm: bool = False

    def theta(self, cells: int) -> nn.Parameter:
        """Velocities (N - 1,) at the inner vertices."""
        bound = 0.0 if self.init == "identity" else 1 / math.sqrt(cells - 1)
        return nn.Parameter(torch.empty(cells - 1).uniform_(-bound, bound))


class TaskMaps(TaskBlock):
    """One task's way through the last block of a stage, by weights with singular values of its own."""

    def __init__(self, config: DiTASKConfig, block: Any, sites: Mapping[str, Site]) -> None:
        super().__init__(config, block, sites)
        self.theta = nn.ParameterDict({kind: config.theta(config.task_cells) for kind in sites})
        self.dropout = nn.Dropout(config.dropout)

    def attended(self, taps: Taps) -> torch.Tensor:
        """What goes into the shared proj, dropped."""
        return self.dropout(taps.x["proj"])

    def layer(self, kind: str, x: torch.Tensor, taps: Taps) -> torch.Tensor:
        """x (U diag(f_t(S)) V^T)^T + b on the task's own input: the frozen layer's output there, and the change."""
        return taps.modules[kind].changed(x, self.theta[kind])


@register(
    "ditask",
    DiTASKConfig,
    paper="Mantri et al., CVPR 2025 (arXiv 2502.06029)",
    properties=Properties(identity_at_init=False),
    owned=backbone_weights_and_merging,
    stream=TaskMaps,
    weights="4 * L * (cells - 1) + 12 * (task_cells - 1) + (3 * p ** 2 + 1) * d + 4 * L * d",
)
class DiTASK(SiteModule):
    """y + drop(x) (U diag(f(S) - S) V^T)^T, f shared by all tasks; at the final norm x, as if it were not there."""

    def __init__(self, config: DiTASKConfig, site: Site) -> None:
        super().__init__(config, site)
        self.skips = site.kind == FINAL_NORM
        if self.skips:
            return
        self.acts_on = config.acts_on
        self.theta = config.theta(config.cells)
        self.dropout = nn.Dropout(config.dropout)
        self.site = site
        self.matrices = 3 if site.kind == "qkv" else 1
        weight = site.own_weight()
        pieces = wide(weight).unflatten(0, (self.matrices, -1))
        for name, part in zip("USV", torch.linalg.svd(pieces, full_matrices=False), strict=True):
            self.register_buffer(name, part.to(weight.dtype), persistent=False)

    def singular_change(self, theta: torch.Tensor) -> torch.Tensor:
        """f_theta(S) - S, of the shape of S (matrices, n): exactly zero where theta is."""
        values = self.get_buffer("S")
        if self.acts_on == "values":
            top = values[:, :1]
            return top * displacement(values / top.clamp(min=torch.finfo(top.dtype).tiny), theta)
        last = values.shape[1] - 1
        at = torch.arange(last + 1, device=values.device, dtype=values.dtype)
        moved = (at + last * displacement(at / max(last, 1), theta)).clamp(0, last)
        below = moved.detach().floor().clamp(max=max(last - 1, 0)).long()
        above = (below + 1).clamp(max=last)
        share = moved - below
        return values[:, below] * (1 - share) + values[:, above] * share - values

    def change(self, theta: torch.Tensor) -> torch.Tensor:
        """What theta adds to the frozen weight, (out, in)."""
        u, v = self.get_buffer("U"), self.get_buffer("V")
        return ((u * self.singular_change(theta).unsqueeze(1)) @ v).flatten(0, 1)

    def changed(self, x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> the layer's output (..., out) under the map theta."""
        return nn.functional.linear(x, self.site.own_weight() + self.change(theta), self.site.output_bias())

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The site's input x (..., in) and output y (..., out) -> its new output."""
        if self.skips:
            return x
        kept = self.dropout(x)
        out = y + nn.functional.linear(kept, self.change(self.theta))
        if not self.training or self.dropout.p == 0:
            return out
        return out + nn.functional.linear(kept - x, self.site.own_weight())

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Those asked for, and the final norm, where there is one that is left out."""
        return with_final_norm(config, sites, every)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Singular values are those of a linear layer, and a stream goes through all three behind the attention product."""
        return not_linear([site for site in sites if site.kind != FINAL_NORM]) or missing_layers(sites)
