"""ZeroI2V: some heads of a frozen image transformer read other frames, and linear adapters that fold into its layers.

Li, Zhu, Wang, "ZeroI2V: Zero-Cost Adaptation of Pre-trained Transformers from Image to Video", ECCV 2024 (arXiv 2310.01324),
section 3. Spatial-temporal dual-headed attention: the keys and values of the first heads are those of a frame before or
behind, at the same place; queries and all other heads stay within the frame. It has no weights. Adapters without an
activation around the linear layers (before qkv, behind proj, before fc1, behind fc2) have weights in training only:
`merge` folds them. An image, and a clip whose frames are equal, are to the attention what they were to the backbone's own.

The authors leave out the adapter behind fc2 on some data sets: `exclude=["fc2"]`. A merged model serves single frames; for
clips attach the method to it with the sites frames_k and frames_v (and frames_embed): what it then trains are no layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.copies import hookless_copy
from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.frame_positions import frame_positions
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive, Rate

#: sites of the adapters: before a layer, and behind one
BEFORE, BEHIND = ("attention_in", "mlp_in"), ("proj", "fc2")
SHIFTED = ("frames_k", "frames_v")


@dataclass(frozen=True, kw_only=True)
class ZeroI2VConfig(MethodConfig):
    """`num_frames` T of a clip; `head_frames`: how many frames away the first heads read, a number for each of them.

    (-1, 1) is the authors' for ViT-B on Kinetics, (-1, -1, 1, 1) for ViT-L; on Something-Something (-1, 1, -2, 2) for ViT-B with
    16 frames, (-1, -1, 1, 1, -2, 2, -3) for ViT-L with 32. Border frames read themselves. Hidden width of the adapters
    `bottleneck_dim`, or the site's width divided by `reduction` (4); their `scale` s is 0.5 on Kinetics, 1 on
    Something-Something, where `dropout` between their layers is 0.
    """

    sites: Sites = ("frames_embed", *SHIFTED, "attention_in", "proj", "mlp_in", "fc2", "final_norm")
    num_frames: Count = 8
    head_frames: tuple[int, ...] = (-1, 1)
    bottleneck_dim: Count = 64
    reduction: Count | None = 4
    scale: Positive = 0.5
    dropout: Rate = 0.1


@register(
    "zeroi2v",
    ZeroI2VConfig,
    paper="Li et al., ECCV 2024 (arXiv 2310.01324)",
    properties=Properties(inference_efficient=True),
    weights="(num_frames + 2) * d + 4 * L * (2 * d * r + r + d) where r = d // reduction",
)
class ZeroI2V(SiteModule):
    """A(x) = x + s (W_2 drop(W_1 x + b_1) + b_2), W_2 and b_2 zero at the start; no weights at keys and values."""

    styles: ClassVar[tuple[str, ...]] = ("frames", "frames_output", "input", "output")

    def __init__(self, config: ZeroI2VConfig, site: Site) -> None:
        super().__init__(config, site)
        self.kind, self.scale = site.kind, config.scale
        if site.kind == "frames_embed":
            self.positions = nn.Parameter(torch.zeros(config.num_frames, 1, site.dim))
        elif site.kind == "final_norm":
            self.norm = hookless_copy(site.module)
        elif site.kind in SHIFTED:
            self.head_frames, self.head_dim = config.head_frames, site.dim // site.num_heads
        else:
            width = site.dim if site.kind in BEFORE else site.dim_out
            hidden = max(1, width // config.reduction) if config.reduction else config.bottleneck_dim
            self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
            self.dropout = nn.Dropout(config.dropout)
            nn.init.trunc_normal_(self.down.weight, std=0.02)
            for tensor in (self.down.bias, self.up.weight, self.up.bias):
                nn.init.zeros_(tensor)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Keys or values (B, T, N, d) -> the same; what is added to the stream (B, T, N, d) before the first block; the
        new tensor, (..., d), at other sites."""
        if self.kind == "frames_embed":
            return frame_positions(self.positions, x, "zeroi2v")
        if self.kind in SHIFTED:
            return self._shift(x)
        if self.kind == "final_norm":
            return self.norm(x)
        assert y is not None  # x itself, where the site is before a layer
        return y + self.scale * self.up(self.dropout(self.down(y)))

    def _shift(self, x: torch.Tensor) -> torch.Tensor:
        """Channels of the first heads from other frames; frames that are not there are replaced by the one that asks."""
        frames, start, parts = x.shape[1], 0, []
        for offset, heads in groupby(self.head_frames):
            stop = start + self.head_dim * len(list(heads))
            part, away = x[..., start:stop], min(abs(offset), frames)
            if offset < 0:
                part = torch.cat([part[:, :away], part[:, : frames - away]], dim=1)
            elif offset > 0:
                part = torch.cat([part[:, away:], part[:, frames - away :]], dim=1)
            parts.append(part)
            start = stop
        return torch.cat([*parts, x[..., start:]], dim=-1)

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """With M = I + s W_2 W_1 and m = s (W_2 b_1 + b_2): W M and W m + b before a layer, M W and M b + m behind it."""
        if self.kind == "final_norm":
            own: Any = self.norm
            return own.weight, getattr(own, "bias", None)
        up, kind = wide(self.up.weight), weight.dtype
        matrix = torch.eye(len(up), dtype=up.dtype, device=up.device) + self.scale * up @ wide(self.down.weight)
        vector = self.scale * F.linear(wide(self.down.bias), up, wide(self.up.bias))
        weight, bias = wide(weight), vector.new_zeros(len(weight)) if bias is None else wide(bias)
        if self.kind in BEFORE:
            return (weight @ matrix).to(kind), (weight @ vector + bias).to(kind)
        return (matrix @ weight).to(kind), (matrix @ bias + vector).to(kind)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Each of its sites means something of its own; heads are given away as far as there are some."""
        kinds, known = {site.kind for site in sites}, {*ZeroI2VConfig().sites}
        if kinds - known:
            return f"it cannot act at the sites {', '.join(sorted(kinds - known))}"
        heads = min((site.num_heads for site in sites if site.kind in SHIFTED), default=len(config.head_frames))
        if heads < len(config.head_frames):
            return f"head_frames gives {len(config.head_frames)} heads to other frames, and attention has {heads}"
        return None
