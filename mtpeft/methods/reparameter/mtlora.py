"""MTLoRA and MTLoRA+: low-rank updates all tasks share, and at every stage's end some of each task's own.

Agiza, Neseem, Reda, "MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning", CVPR 2024, section 3.
Shared (task-agnostic) LoRA on qkv, proj, fc1 and fc2 of every block; in the last block of a stage proj, fc1 and fc2 also
have one LoRA per task, which gives that task a stream of its own through the rest of the block. The frozen product of a task's
linear layer is that of the shared stream, its low-rank part sees the task's stream, as in the authors' code. A third mode of that
code, in which the shared update is a norm of the sum of all tasks', is left out: here the shared pass is the same whatever tasks
there are.

The authors also train the patch embedding, all norms, the relative-position tables and (but for MTLoRA+, which gives it a
LoRA) the reduction of patch merging; these are the backbone's own weights, shared by the tasks, and `detach` restores them.
Their backbone has no final norm: decoders read the last stage as its last block leaves it. On Swin-T with four tasks: shared
16 r * 4,416, tasks 276,480, own weights 4,896 + 23,040 + 23,322 + 1,548,288, and with the HRNet-style decoders 1,946,624 in
all 4.95 M, 6.08 M, 8.34 M at r = 16, 32, 64, as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, Taps
from mtpeft.methods.product import add_product
from mtpeft.methods.reparameter.lora import LoRA, LoRAConfig
from mtpeft.methods.spec import Properties, register
from mtpeft.methods.task_block import (
    FINAL_NORM,
    Ranks,
    TaskBlock,
    backbone_weights_and_merging,
    check_ranks,
    missing_layers,
    rank_at,
    with_final_norm,
)
from mtpeft.options import Positive, Rate


@dataclass(frozen=True, kw_only=True)
class MTLoRAConfig(MethodConfig):
    """`rank` r of the shared updates, `task_rank` of a task's own: one number, or one for each stage, finest first (patch
    merging has that of the stage it follows); `scale` multiplies both (4 in the authors' configs).

    `dropout` on the input of shared updates and of a task's first one. `mode`: a task's update is added to what the frozen
    layer gives the shared stream (`matrix`), or to that and the shared update (`matrixv2`), as in the authors' code.
    `train_backbone`: also train the patch embedding, norms, relative-position tables and patch merging, as the authors do.
    `final_norm`: heads read the backbone's output behind its final norm, which is trained then too; the authors leave it out.
    """

    sites: Sites = ("qkv", "proj", "fc1", "fc2")
    rank: Ranks = 64
    task_rank: Ranks = 4
    scale: Positive = 4.0
    dropout: Rate = 0.05
    mode: Literal["matrix", "matrixv2"] = "matrix"
    train_backbone: bool = True
    final_norm: bool = False

    def low_rank(self, rank: Ranks, site: Site, dropout: float = 0.0) -> LoRAConfig:
        """LoRA at a site, of its stage's rank and at this scale."""
        number = rank_at(rank, site)
        return LoRAConfig(rank=number, alpha=self.scale * number, dropout=dropout)


@dataclass(frozen=True, kw_only=True)
class MTLoRAPlusConfig(MTLoRAConfig):
    """As MTLoRA, with a shared update on the reduction of patch merging, which stays frozen itself."""

    sites: Sites = ("qkv", "proj", "fc1", "fc2", "reduction")


class TaskLoRA(TaskBlock):
    """One task's way through the last block of a stage."""

    def __init__(self, config: MTLoRAConfig, block: Any, sites: Mapping[str, Site]) -> None:
        super().__init__(config, block, sites)
        self.updates = nn.ModuleDict(
            {kind: LoRA(config.low_rank(config.task_rank, site), site) for kind, site in sites.items()}
        )
        self.dropout = nn.Dropout(config.dropout)
        self.on_shared = config.mode == "matrixv2"

    def attended(self, taps: Taps) -> torch.Tensor:
        """What goes into the shared proj, as a LoRA sees it."""
        return self.dropout(taps.x["proj"])

    def layer(self, kind: str, x: torch.Tensor, taps: Taps) -> torch.Tensor:
        """The shared output of a layer, frozen or with its update, and the task's update on the task's own input."""
        y = taps.modules[kind](taps.x[kind], taps.y[kind]) if self.on_shared else taps.y[kind]
        return self.updates[kind](x, y)


class _MTLoRA(LoRA):
    """y + s B A drop(x), shared by all tasks; at the final norm x, as if it were not there."""

    peft_type: ClassVar[str | None] = None  # trained norms and each task's own updates have no place there
    #: LoRA's options of rates and of starts are none of these methods'
    group = staticmethod(SiteModule.group)
    constants = staticmethod(SiteModule.constants)

    def __init__(self, config: MTLoRAConfig, site: Site) -> None:
        skips = site.kind == FINAL_NORM
        if skips:
            SiteModule.__init__(self, config, site)
            self.factored = False
        else:
            super().__init__(config.low_rank(config.rank, site, config.dropout), site)
        self.skips = skips

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The site's input x and output y -> its new output."""
        return x if self.skips else add_product(y, *self.factors(x))

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Those asked for, and the final norm, where there is one that is left out."""
        check_ranks(every, rank=config.rank, task_rank=config.task_rank)
        return with_final_norm(config, sites, every)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """A low-rank product needs a linear layer, and a stream all three layers behind the attention product."""
        updated = [site for site in sites if site.kind != FINAL_NORM]
        reasons = (LoRA.unsupported(config.low_rank(config.rank, site), [site]) for site in updated)
        return next(filter(None, reasons), None) or missing_layers(sites)


@register(
    "mtlora",
    MTLoRAConfig,
    paper="Agiza et al., CVPR 2024 (arXiv 2403.20320)",
    properties=Properties(identity_at_init=False),
    owned=backbone_weights_and_merging,
    stream=TaskLoRA,
    weights="L * k * rank + 4 * (k - 4 * d) * task_rank + (3 * p ** 2 + 1) * d + 4 * L * d where k = 8 * d + 2 * m",
)
class MTLoRA(_MTLoRA):
    """Shared updates in every block, a task's own at the stage ends."""


@register(
    "mtlora_plus",
    MTLoRAPlusConfig,
    paper="Agiza et al., CVPR 2024 (arXiv 2403.20320)",
    properties=Properties(identity_at_init=False),
    owned=backbone_weights_and_merging,
    stream=TaskLoRA,
)
class MTLoRAPlus(_MTLoRA):
    """MTLoRA with a shared update in place of a trained reduction."""
