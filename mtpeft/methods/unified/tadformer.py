"""TADFormer: prompts of all tasks among the tokens, and at every stage's end task features that a dynamic filter shapes.

Baek, Lee, Jo, Choi, Min, "TADFormer: Task-Adaptive Dynamic TransFormer for Efficient Multi-Task Learning", CVPR 2025
(arXiv 2501.04293), section 3. It builds on MTLoRA: one LoRA, shared by all tasks, on qkv, proj, fc1 and fc2 of every block, and
a stream of each task's own through the rest of the last block of a stage. No task has a LoRA of its own.

Prompts. One token per task enters at the first block and flows on, among the patches of every window and wider in every stage
(`mtpeft/methods/reparameter/task_prompts.py`). Every task's prompt is part of what any task sees, so a task that is added
moves the others' outputs.

Task streams. Head h of the attended values o, before proj, is weighted by what the task's prompt asks of each patch, before
scale and softmax: f = GELU(q_t . k) o, u = LN(f + o). Then y_t = W o + b + s B DTF(A u) in place of proj, and the same for fc1
and fc2: the frozen product of the shared stream, the shared LoRA's on the task's, filtered on the window's map (proj) or the
whole one. DTF is a depth-wise 3 x 3 convolution whose kernels come from its input's mean, by a linear map and FilterNorm (Zhou
et al., "Decoupled Dynamic Filter Networks", CVPR 2021); one for each layer, shared by the tasks. The features that leave are
g f + (1 - g) out, g = sigmoid(gate), one gate for each stage; heads read them behind the frozen patch merging (`merged`).

The authors' released code has a plain depth-wise convolution of each task's own in the place of DTF: `filter="static"`. It also
shuffles channels and places of f on its way out; not here.

On Swin-T with four tasks at rank r: LoRA 16 r * 4,416, DTF 12 (9 r^2 + 27 r), norms of prompts 2,880, prompts 384, W_up
387,072, gates 4, own weights of the backbone 4,896 + 23,040 + 23,322; with the HRNet-style decoders (1,946,624) and the final
norm 3.55 M, 4.77 M, 7.37 M at r = 16, 32, 64. Published: 3.56, 4.78, 7.38 M, which is these and 5,952 weights of norms of
prompts that their code has in all other blocks and never uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.methods.base import Taps, wide
from mtpeft.methods.precision import without_autocast
from mtpeft.methods.reparameter.task_prompts import TaskPrompts, TaskPromptsConfig, WindowBlock, to_tokens
from mtpeft.methods.spec import Properties, register
from mtpeft.methods.task_block import LAYERS, backbone_weights

#: side of the filters
SIDE = 3


@dataclass(frozen=True, kw_only=True)
class TADFormerConfig(TaskPromptsConfig):
    """`rank` r of the shared updates: one number, or one for each stage, finest first; `scale` multiplies them.

    `dropout` on the input of the updates, and on what a task's stream starts with. `filter`: kernels made of the input and
    shared by the tasks (`dynamic`), or of each task's own and the same for all inputs (`static`), as in the authors' released
    code.
    `train_backbone`: also train the patch embedding, norms and relative-position tables, as the authors do.
    `final_norm`: heads read the backbone's output behind its final norm, which is trained then too; the authors leave it out.
    """

    filter: Literal["dynamic", "static"] = "dynamic"


class DynamicFilter(nn.Module):
    """DTF: depth-wise kernels (3, 3), one for each map and channel, made of the channels' means and normed channel by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernels = nn.Linear(channels, channels * SIDE**2)
        self.std = nn.Parameter(torch.randn(channels, SIDE**2) * math.sqrt(2) / SIDE)
        self.mean = nn.Parameter(torch.randn(channels, SIDE**2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, r, h, w) -> the same shape."""
        rows, channels, height, width = x.shape
        made = self.kernels(x.mean(dim=(2, 3))).unflatten(1, (channels, SIDE**2))
        normed = (made - made.mean(dim=2, keepdim=True)) / (made.std(dim=2, keepdim=True) + 1e-10)
        kernels = (normed * self.std + self.mean).to(x.dtype)
        if torch.compiler.is_exporting():  # a graph for any number of maps can have no such number of groups
            return _by_shifts(x, kernels)
        maps = x.reshape(1, rows * channels, height, width)
        kernels = kernels.reshape(rows * channels, 1, SIDE, SIDE)
        return F.conv2d(maps, kernels, padding=SIDE // 2, groups=rows * channels).reshape(x.shape)


def _by_shifts(x: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Maps (B, r, h, w) under kernels (B, r, 9), tap by tap."""
    height, width = x.shape[2:]
    padded, out = F.pad(x, (SIDE // 2,) * 4), torch.zeros_like(x)
    for tap in range(SIDE**2):
        top, left = divmod(tap, SIDE)
        out = out + kernels[:, :, tap, None, None] * padded[:, :, top : top + height, left : left + width]
    return out


class StaticFilter(nn.Conv2d):
    """A depth-wise convolution that pads with zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, SIDE, padding=SIDE // 2, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, r, h, w) -> the same shape."""
        assert self.bias is not None
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)  # autocast leaves convolutions under vmap alone
        return F.conv2d(x, weight, bias, padding=SIDE // 2, groups=self.groups)


class FilteredStream(WindowBlock):
    """One task's way through the last block of a stage; its own weights are those of static filters alone."""

    def __init__(self, config: TADFormerConfig, block: Any, sites: Mapping[str, Site]) -> None:
        super().__init__(config, block, sites)
        static = sites.items() if config.filter == "static" else ()
        self.filters = nn.ModuleDict({kind: StaticFilter(config.rank_at(site)) for kind, site in static})
        self.dropout = nn.Dropout(config.dropout)
        self.heads = sites["proj"].num_heads

    def forward(self, taps: Taps) -> torch.Tensor:
        """g f + (1 - g) out, less the block's shared output."""
        shared = taps.modules["proj"]
        attended = self.dropout(taps.x["proj"])
        focused = self.focused(attended, taps)
        own = self.output(taps, shared.prompt_norm(focused + attended))
        gate = shared.gate.sigmoid()
        return gate * taps.unwindow(focused).reshape(own.shape) + (1 - gate) * own - taps.output

    def focused(self, attended: torch.Tensor, taps: Taps) -> torch.Tensor:
        """f (windows, A, C): the attended values o, head by head, times GELU(q_t . k), which is in float32 at least."""
        assert taps.queries is not None and taps.keys is not None
        asked = taps.queries.repeat_interleave(taps.keys.shape[0] // taps.queries.shape[0], dim=0)
        with without_autocast(asked):
            weights = F.gelu(wide(taps.keys) @ wide(asked).transpose(-2, -1)).transpose(1, 2)  # (windows, A, heads, 1)
        return (attended.unflatten(-1, (self.heads, -1)) * weights).flatten(-2).to(attended.dtype)

    def layer(self, kind: str, x: torch.Tensor, taps: Taps) -> torch.Tensor:
        """W x' + b + s B DTF(A x): x the task's own, (rows, tokens, in), x' the shared one."""
        shared, own = taps.modules[kind], self.filters
        left, right = shared.update.product()
        maps = self.to_map(kind, F.linear(x, right), taps)
        filtered = own[kind](maps) if kind in own else shared.filter(maps)
        return taps.y[kind] + F.linear(to_tokens(filtered), left)


@register(
    "tadformer",
    TADFormerConfig,
    paper="Baek et al., CVPR 2025 (arXiv 2501.04293)",
    properties=Properties(identity_at_init=False),
    owned=backbone_weights,
    stream=FilteredStream,
)
class TADFormer(TaskPrompts):
    """At the ends of stages also what the streams share: filters, the norm of u, and the gate."""

    def __init__(self, config: TADFormerConfig, site: Site) -> None:
        super().__init__(config, site)
        if not site.stage_end or site.kind not in LAYERS:
            return
        if config.filter == "dynamic":
            self.filter = DynamicFilter(config.rank_at(site))
        if site.kind == "proj":
            self.prompt_norm = nn.LayerNorm(site.dim)
            self.gate = nn.Parameter(torch.zeros(()))
