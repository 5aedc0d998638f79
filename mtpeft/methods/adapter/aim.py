"""AIM: a frozen image transformer adapted to video, its own attention used a second time over the frames of a clip.

Yang et al., "AIM: Adapting Image Models for Efficient Video Action Recognition", ICLR 2023 (arXiv 2302.03024), section 3.
In every block: attention over time, then an adapter, added to the stream (temporal adaptation); an adapter behind the
attention over space (spatial); an adapter beside the MLP (joint). Norm and attention weights of the block serve both
attentions, as in the authors' code. An image has no time: it gets the spatial and the joint adaptation only.

Where blocks attend within windows (Swin), every second one attends over time, those whose windows are not shifted; the
tables of relative positions and the final norm stay frozen, as in the authors' code. In place of its table of relative times,
which it leaves at a random start, the learned positions of the frames tell them apart here, too. Swin-B at T = 8 has
8,762,080 weights in its adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.copies import hookless_copy
from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import Bottleneck, bottleneck_width
from mtpeft.methods.adapter.frame_positions import frame_positions
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import register
from mtpeft.options import Count, NotNegative, Positive, Rate


@dataclass(frozen=True, kw_only=True)
class AIMConfig(MethodConfig):
    """`num_frames` T of a clip; hidden width `bottleneck_dim`, or the site's width divided by `reduction` (4).

    `embed_std`: spread of the positions in time at the start. It is 0 in the paper; without large pre-training some spread
    speeds learning up, but a still clip is then not its image at step 0. `joint_scale` 0.5 for Kinetics and Diving-48, 1.0
    for Something-Something. `temporal_adapters=2` puts another one before the attention over time (Something-Something).
    `drop_path` is the rate in the last block, growing from 0 in the first, of the temporal and the joint branch.
    `temporal_every` n: attention over time in every n-th block of a stage, from its first; None for 1, and 2 where blocks
    attend within windows. `train_norm`: the final norm is trained; None for yes, and no where blocks attend within windows.
    """

    sites: Sites = ("frames_embed", "temporal", "after_attention", "parallel_mlp_ln", "final_norm")
    num_frames: Count = 8
    embed_std: NotNegative = 0.0
    bottleneck_dim: Count = 64
    reduction: Count | None = 4
    joint_scale: Positive = 0.5
    temporal_adapters: Literal[1, 2] = 1
    temporal_every: Count | None = None
    train_norm: bool | None = None
    drop_path: Rate = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temporal_adapters == 2 and "temporal_in" not in self.sites:
            object.__setattr__(self, "sites", (*self.sites, "temporal_in"))


@register(
    "aim",
    AIMConfig,
    paper="Yang et al., ICLR 2023 (arXiv 2302.03024)",
    weights="(num_frames + 2) * d + (2 + temporal_adapters) * L * (2 * d * r + r + d) where r = d // reduction",
)
class AIM(SiteModule):
    """A = W_up gelu(W_down x + b_d) + b_u, W_up and b_u zero at the start; the sites differ in what it is added to."""

    styles: ClassVar[tuple[str, ...]] = ("frames", "temporal", "temporal_in", "input", "parallel", "output")

    def __init__(self, config: AIMConfig, site: Site) -> None:
        super().__init__(config, site)
        self.kind = site.kind
        if site.kind == "frames_embed":
            self.positions = nn.Parameter(config.embed_std * torch.randn(config.num_frames, 1, site.dim))
        elif site.kind == "final_norm":
            self.norm = hookless_copy(site.module)
        else:
            self.scale = config.joint_scale if site.kind == "parallel_mlp_ln" else 1.0
            hidden = bottleneck_width(site, config.bottleneck_dim, config.reduction)
            self.adapter = Bottleneck(site.dim, hidden, "gelu")
            nn.init.trunc_normal_(self.adapter.down.weight, std=0.02)
            self.drop_rate = config.drop_path * (site.block or 0) / max(1, site.depth - 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """What is added at the sites `temporal` (rows, T, d) and `frames_embed` (B, T, N, d); the new tensor elsewhere."""
        if self.kind == "frames_embed":
            return frame_positions(self.positions, x, "aim")
        if self.kind == "final_norm":
            return self.norm(x)
        change = self.adapter(x) * self.scale
        if self.kind == "temporal":
            return self._drop(change)
        if self.kind == "parallel_mlp_ln":
            assert y is not None
            return y + self._drop(change)
        return x + change  # behind the attention over space, and before that over time

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """All, less attention over time in the blocks that go without, and the final norm where it stays frozen."""
        windows = any(site.windows for site in sites)
        step = config.temporal_every or (2 if windows else 1)
        train_norm = not windows if config.train_norm is None else config.train_norm
        left = [s for s in sites if s.style not in ("temporal", "temporal_in") or s.place % step == 0]
        return left if train_norm else [site for site in left if site.kind != "final_norm"]

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Each of its sites means something of its own; an adapter before the attention over time needs that attention."""
        kinds, known = {site.kind for site in sites}, {*AIMConfig().sites, "temporal_in"}
        if kinds - known:
            return f"it cannot act at the sites {', '.join(sorted(kinds - known))}"
        return "temporal_in needs the site temporal" if "temporal_in" in kinds and "temporal" not in kinds else None

    def _drop(self, change: torch.Tensor) -> torch.Tensor:
        """Whole rows to zero (tokens over time, or frames), the others scaled up, in training."""
        rows = torch.ones_like(change[:, :1, :1])
        return change * nn.functional.dropout(rows, self.drop_rate, self.training) if self.drop_rate else change
