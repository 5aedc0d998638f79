"""MTLoRA and MTLoRA+: low-rank updates all tasks share, and at every stage's end some of each task's own.

Agiza, Neseem, Reda, "MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning", CVPR 2024, section 3.
Shared (task-agnostic) LoRA on qkv, proj, fc1 and fc2 of every block; in the last block of a stage proj, fc1 and fc2 also
have one LoRA per task, which gives that task a stream of its own through the rest of the block. The frozen product of a task's
linear layer is that of the shared stream, its low-rank part sees the task's stream, as in the authors' code.

The authors also train the patch embedding, all norms, the relative-position tables and (but for MTLoRA+, which gives it a
LoRA) the reduction of patch merging; these are the backbone's own weights, shared by the tasks, and `detach` restores them.
Their backbone has no final norm: decoders read the last stage as its last block leaves it. On Swin-T with four tasks: shared
16 r * 4,416, tasks 276,480, own weights 4,896 + 23,040 + 23,322 + 1,548,288, and with the HRNet-style decoders 1,946,624 in
all 4.95 M, 6.08 M, 8.34 M at r = 16, 32, 64, as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.layers import Mlp
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, Properties, SiteModule, Sites, Taps, TaskStream, register
from mtpeft.methods.product import add_product
from mtpeft.methods.reparameter.lora import LoRA, LoRAConfig
from mtpeft.options import Count, Positive, Rate

#: kind of the site that is the norm behind the last block
FINAL_NORM = "final_norm"


@dataclass(frozen=True, kw_only=True)
class MTLoRAConfig(MethodConfig):
    """`rank` r of the shared updates, `task_rank` of a task's own; `scale` multiplies both (4 in the authors' configs).

    `dropout` on the input of shared updates and of a task's first one. `train_backbone`: also train the patch embedding, norms,
    relative-position tables and patch merging, as the authors do. `final_norm`: heads read the backbone's output behind its
    final norm, which is trained then too; the authors leave it out.
    """

    sites: Sites = ("qkv", "proj", "fc1", "fc2")
    rank: Count = 64
    task_rank: Count = 4
    scale: Positive = 4.0
    dropout: Rate = 0.05
    train_backbone: bool = True
    final_norm: bool = False

    def low_rank(self, rank: int, dropout: float = 0.0) -> LoRAConfig:
        """LoRA of a rank at this scale."""
        return LoRAConfig(rank=rank, alpha=self.scale * rank, dropout=dropout)


@dataclass(frozen=True, kw_only=True)
class MTLoRAPlusConfig(MTLoRAConfig):
    """As MTLoRA, with a shared update on the reduction of patch merging, which stays frozen itself."""

    sites: Sites = ("qkv", "proj", "fc1", "fc2", "reduction")


class TaskLoRA(TaskStream):
    """One task's way through the last block of a stage."""

    taps: ClassVar[tuple[str, ...]] = ("proj", "fc1", "fc2")

    def __init__(self, config: MTLoRAConfig, block: Any, sites: Mapping[str, Site]) -> None:
        super().__init__(config, block, sites)
        low_rank = config.low_rank(config.task_rank)
        self.updates = nn.ModuleDict({kind: LoRA(low_rank, site) for kind, site in sites.items()})
        self.dropout = nn.Dropout(config.dropout)
        self.parts = [block]  # in a list: the block is the backbone's, not the stream's

    def forward(self, taps: Taps) -> torch.Tensor:
        """The task's block output less the shared one."""
        block: Any = self.parts[0]
        attended = self._updated("proj", self.dropout(taps.x["proj"]), taps)
        entry, branch = taps.entry, taps.unwindow(_scaled(block.attn, "proj_drop", attended))
        stream = entry + block.drop_path1(_scaled(block, "ls1", branch)).reshape(entry.shape)
        normed = _call(block.norm2, stream).reshape(taps.x["fc1"].shape)
        hidden = block.mlp.act(self._updated("fc1", normed, taps))
        hidden = block.mlp.norm(block.mlp.drop1(hidden))
        out = block.mlp.drop2(self._updated("fc2", hidden, taps))
        return stream + block.drop_path2(_scaled(block, "ls2", out)).reshape(entry.shape) - taps.output

    def _updated(self, kind: str, x: torch.Tensor, taps: Taps) -> torch.Tensor:
        """The shared frozen output of a layer, with the task's update on the task's own input."""
        return self.updates[kind](x, taps.y[kind])

    @staticmethod
    def unsupported(config: Any, block: Any, anatomy: Any) -> str | None:
        """A stream goes the way of a block that norms first and has a plain MLP."""
        calls = anatomy.calls
        norm_first = calls[block.norm2].order < calls[block.mlp].order
        if norm_first and type(block.mlp) is Mlp and getattr(block, "gamma_1", None) is None:
            return None
        return f"its task streams need blocks that norm first, with an MLP of fc1, activation and fc2 ({type(block).__name__})"


def _scaled(block: Any, name: str, x: torch.Tensor) -> torch.Tensor:
    layer = getattr(block, name, None)
    return x if layer is None else layer(x)


def _call(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The norm's own forward: hooks of other methods act on the shared pass alone."""
    return module.forward(x)


def owned(config: MTLoRAConfig, anatomy: Any) -> list[str]:
    """The backbone's own weights that are trained: patch embedding, norms, position tables, patch merging."""
    if not config.train_backbone:
        return []
    trained = [s for s in anatomy.sites if "norms" in s.tags and (config.final_norm or s.kind != FINAL_NORM)]
    norms = {name for site in trained for name in (site.weight, site.bias)}
    names = [name for name, _ in anatomy.backbone.named_parameters()]
    merging = () if "reduction" in config.sites else (".reduction.",)
    return [
        name
        for name in names
        if name in norms
        or name.startswith("patch_embed.")
        or "relative_position" in name
        or any(m in name for m in merging)
    ]


class _MTLoRA(LoRA):
    """y + s B A drop(x), shared by all tasks; at the final norm x, as if it were not there."""

    def __init__(self, config: MTLoRAConfig, site: Site) -> None:
        skips = site.kind == FINAL_NORM
        if skips:
            SiteModule.__init__(self, config, site)
            self.factored = False
        else:
            super().__init__(config.low_rank(config.rank, config.dropout), site)
        self.skips = skips

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The site's input x and output y -> its new output."""
        return x if self.skips else add_product(y, *self.factors(x))

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Those asked for, and the final norm, where there is one that is left out."""
        return [*sites, *(s for s in every if s.kind == FINAL_NORM and not config.final_norm and s not in sites)]

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """A stream goes through all three layers behind the attention product."""
        reason = LoRA.unsupported(config, [site for site in sites if site.kind != FINAL_NORM])
        kinds = {site.kind for site in sites}
        if reason is None and not {"proj", "fc1", "fc2"} <= kinds:
            reason = "its task streams need the sites proj, fc1 and fc2"
        return reason


@register(
    "mtlora",
    MTLoRAConfig,
    paper="Agiza et al., CVPR 2024 (arXiv 2403.20320)",
    properties=Properties(identity_at_init=False),
    owned=owned,
    stream=TaskLoRA,
)
class MTLoRA(_MTLoRA):
    """Shared updates in every block, a task's own at the stage ends."""


@register(
    "mtlora_plus",
    MTLoRAPlusConfig,
    paper="Agiza et al., CVPR 2024 (arXiv 2403.20320)",
    properties=Properties(identity_at_init=False),
    owned=owned,
    stream=TaskLoRA,
)
class MTLoRAPlus(_MTLoRA):
    """MTLoRA with a shared update in place of a trained reduction."""
