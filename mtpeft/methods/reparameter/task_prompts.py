"""A prompt of each task's own in every window of a Swin, beside a LoRA that all tasks share.

Baek et al. (CVPR 2025) give every task one token. All of them enter at the first block and flow on: they stand in
every window, without position or mask. What they read there is averaged over the windows, p', and P <- P + MLP(LN2 p'): no
residual of attention. Patch merging widens them by a linear map, P <- W_up P. So every task's prompt is part of what any task
sees, and a task that is added moves the others' outputs. The methods that follow differ in what task streams make of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.layers import to_2tuple
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, Taps, not_linear
from mtpeft.methods.reparameter.lora import LoRA, LoRAConfig
from mtpeft.methods.task_block import (
    FINAL_NORM,
    Ranks,
    TaskBlock,
    check_ranks,
    missing_layers,
    rank_at,
    with_final_norm,
)
from mtpeft.options import Positive, Rate


@dataclass(frozen=True, kw_only=True)
class TaskPromptsConfig(MethodConfig):
    """What the methods have in common; each says it in its own words."""

    sites: Sites = ("qkv", "proj", "fc1", "fc2")
    rank: Ranks = 64
    scale: Positive = 4.0
    dropout: Rate = 0.05
    train_backbone: bool = True
    final_norm: bool = False

    def rank_at(self, site: Site) -> int:
        """The rank of the site's stage."""
        return rank_at(self.rank, site)

    def low_rank(self, site: Site) -> LoRAConfig:
        """LoRA at a site, of its stage's rank and at this scale."""
        return LoRAConfig(rank=self.rank_at(site), alpha=self.scale * self.rank_at(site), dropout=self.dropout)


class WindowBlock(TaskBlock):
    """A task's way through the last block of a stage whose layers see maps: of a window, or of the whole image."""

    def to_map(self, kind: str, x: torch.Tensor, taps: Taps) -> torch.Tensor:
        """What enters layer `kind`, (rows, tokens, c), or is made of it -> maps (rows, c, h, w), of the windows for proj."""
        height, width = to_2tuple(self.parts[0].window_size) if kind == "proj" else taps.entry.shape[1:3]
        return x.transpose(1, 2).unflatten(2, (height, width))

    @staticmethod
    def unsupported(config: Any, block: Any, anatomy: Any) -> str | None:
        """Prompts stand in windows of patches, and layers act on maps of them."""
        if anatomy.families.get(block.attn) != "window":
            return f"its prompts stand in Swin's windows, which {type(block).__name__} does not have"
        return TaskBlock.unsupported(config, block, anatomy)


def to_tokens(maps: torch.Tensor) -> torch.Tensor:
    """Maps (rows, c, h, w) -> (rows, h w, c)."""
    return maps.flatten(2).transpose(1, 2)


class TaskPrompts(SiteModule):
    """y + s B A drop(x), shared by all tasks; a task's prompt, and what widens prompts between stages; at the final norm x, as if
    it were not there."""

    styles: ClassVar[tuple[str, ...]] = ("tokens", "output")
    carry: ClassVar[bool] = True
    lifts: ClassVar[bool] = True
    token_residual: ClassVar[bool] = False

    def __init__(self, config: TaskPromptsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.kind = site.kind
        if site.kind == "tokens" and site.block == 0:
            self.prompt = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, site.dim), mean=1.0))  # cut off at -2 and 2
        elif site.kind == "tokens":
            before = site.stages[(site.stage or 0) - 1].dim
            self.up = nn.Parameter(nn.init.trunc_normal_(torch.empty(site.dim, before), std=0.02))
        elif site.kind != FINAL_NORM:
            self.update = LoRA(config.low_rank(site), site)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None, **model: nn.Module) -> torch.Tensor:
        """A layer's input x and output y -> its new output; block input x (B, N, d) and, behind a stage, the prompts that
        left it (B, T, d') -> prompts (B, T, d)."""
        if self.kind == FINAL_NORM:
            return x
        if self.kind != "tokens":
            assert other is not None
            changed: torch.Tensor = self.update(x, other)
            return changed
        return self.prompt.expand(x.shape[0], -1, -1) if other is None else F.linear(other, self.up)

    @staticmethod
    def of_tasks(config: Any, sites: Sequence[Site]) -> Sequence[Site]:
        """The first tokens site holds one prompt of each task's own."""
        return [site for site in sites if site.kind == "tokens" and site.block == 0]

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Those asked for, where prompts enter and where they are widened, and a final norm that is left out."""
        check_ranks(every, rank=config.rank)
        layers = [site for site in sites if site.kind != "tokens"]
        starts = [site for site in every if site.kind == "tokens" and site.place == 0]
        return [*starts, *with_final_norm(config, layers, every)]

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Prompts need Swin's windows, LoRA linear layers, and a stream all three layers behind the attention product."""
        prompts = [site for site in sites if site.kind == "tokens"]
        if not prompts or not all(site.windows for site in prompts):
            return "its prompts stand in Swin's windows, which this backbone does not have"
        layers = [site for site in sites if site.kind not in ("tokens", FINAL_NORM)]
        return not_linear(layers) or missing_layers(sites)
