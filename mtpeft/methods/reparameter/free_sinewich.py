"""Free Sinewich: one low-rank base for all tasks, which each task sees through a sine of its own frequency.

Liu, Chen, Chu, Yang, Wang, "Frequency Switching Mechanism for Parameter-Efficient Multi-Task Learning", CVPR 2026
(arXiv 2603.21111). On a Swin, as TADFormer has it: a LoRA that all tasks share on qkv, proj, fc1 and fc2 of every block, a
prompt of each task's among the patches of every window (`mtpeft/methods/reparameter/task_prompts.py`), and a stream of each
task's own through the rest of the last block of a stage.

There proj, fc1 and fc2 have a base M = B W A: the LoRA's factors around a small convolution W (r, r, k, k), so that
M[o, i, u, v] = sum B[o, a] W[a, b, u, v] A[b, i]. A task's kernel is sin(omega_t M), entry by entry, whose rank is not r's, and
then a Gaussian low-pass (7 taps, sigma 1) along its channels, out and in. The stream has Phi(f) + kernel * f, Phi the frozen
layer, on the window's map (proj) or the whole one. The frequency is one number for each task, made of its prompt p_t:
omega_t = s (tanh(w . ReLU(p_t)) + c), w, s and c shared.

No code was found, and what we read does not tell everything. Ours are: k = 3; W at the identity, in its middle tap; s = c = 1,
so that frequencies are positive; the low-pass over output and input channels, zeros beyond; p_t as it is learned, before any
block; the stream that goes on to the next stage has the plain LoRA B A, whose factors are the base's. B is zero at the start,
and with it every kernel. Where |omega_t M| stays small, sin(omega_t M) is omega_t M: tasks differ by a factor alone.

The paper's decoders share a base for their first convolution in the same way (6.53 M in all at r = 64); heads here are each
task's own, as in its ablation with 7.41 M. On Swin-T with four tasks at rank r: LoRA 16 r * 4,416, W 12 * 9 r^2, prompts 384,
W_up 387,072, frequencies 98, own weights of the backbone 4,896 + 23,040 + 23,322: 5.40 M at r = 64, and 7.35 M with the
HRNet-style decoders.

Kernels are dense, in the layer's size times k^2, and there is one for each task in every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.methods.base import Taps, wide
from mtpeft.methods.precision import without_autocast
from mtpeft.methods.reparameter.task_prompts import TaskPrompts, TaskPromptsConfig, WindowBlock, to_tokens
from mtpeft.methods.spec import Properties, register
from mtpeft.methods.task_block import LAYERS, backbone_weights
from mtpeft.options import NotNegative, OddSize, Positive

#: taps of the low-pass
TAPS = 7


@dataclass(frozen=True, kw_only=True)
class FreeSinewichConfig(TaskPromptsConfig):
    """`rank` r of the shared updates and bases: one number, or one for each stage, finest first; `scale` multiplies updates.

    `kernel_size` k of the bases (1: they are linear layers); `frequency` s at the start; `sigma` of the low-pass, 0 for none.
    `dropout` on the input of the updates, and on what a task's stream starts with.
    `train_backbone`: also train the patch embedding, norms and relative-position tables.
    `final_norm`: heads read the backbone's output behind its final norm, which is trained then too.
    """

    kernel_size: OddSize = 3
    frequency: Positive = 1.0
    sigma: NotNegative = 1.0


class Clock(nn.Module):
    """The frequency of a prompt: s (tanh(w . ReLU(p)) + c)."""

    def __init__(self, config: FreeSinewichConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        width = next(site.dim for site in sites if site.kind == "tokens")
        self.weight = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.scale = nn.Parameter(torch.tensor(float(config.frequency)))
        self.offset = nn.Parameter(torch.ones(()))

    def forward(self, prompt: torch.Tensor) -> torch.Tensor:
        """A prompt (1, d) -> its frequency, ()."""
        return self.scale * (torch.tanh((self.weight * F.relu(prompt)).sum()) + self.offset)


def low_pass(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Maps (rows, c, h, w) smoothed along the channels by a Gaussian, zeros beyond: as a kernel's channels would be."""
    if sigma == 0:
        return maps
    at = torch.arange(TAPS, device=maps.device, dtype=maps.dtype) - TAPS // 2
    bell = torch.exp(-(at**2) / (2 * sigma**2))
    rows = maps.flatten(2).unsqueeze(1)  # (rows, 1, c, h w)
    smooth = F.conv2d(rows, (bell / bell.sum()).view(1, 1, TAPS, 1), padding=(TAPS // 2, 0))
    return smooth.squeeze(1).unflatten(2, maps.shape[2:])


class SineStream(WindowBlock):
    """One task's way through the last block of a stage; all its weights are shared, but for the prompt its frequency is of."""

    def __init__(self, config: FreeSinewichConfig, block: Any, sites: Mapping[str, Site]) -> None:
        super().__init__(config, block, sites)
        self.dropout, self.sigma = nn.Dropout(config.dropout), config.sigma

    def attended(self, taps: Taps) -> torch.Tensor:
        """What goes into the shared proj, dropped."""
        return self.dropout(taps.x["proj"])

    def layer(self, kind: str, x: torch.Tensor, taps: Taps) -> torch.Tensor:
        """Phi(x) + kernel * x on the task's own input (rows, tokens, in).

        The low-pass of a kernel's input and output channels is that of what goes in and of what comes out.
        """
        block: Any = self.parts[0]
        frozen = block.attn.proj if kind == "proj" else getattr(block.mlp, kind)
        with without_autocast(x):
            kernel = torch.sin(wide(taps.model(taps.own["tokens.prompt"])) * taps.modules[kind].base())
        maps = low_pass(self.to_map(kind, x, taps), self.sigma)
        made = F.conv2d(maps, kernel.to(maps.dtype), padding=kernel.shape[-1] // 2)
        # the layer's own forward: hooks act on the shared pass alone
        y: torch.Tensor = frozen.forward(x)
        return y + to_tokens(low_pass(made, self.sigma))


@register(
    "free_sinewich",
    FreeSinewichConfig,
    paper="Liu et al., CVPR 2026 (arXiv 2603.21111)",
    properties=Properties(identity_at_init=False),
    owned=backbone_weights,
    stream=SineStream,
)
class FreeSinewich(TaskPrompts):
    """At the ends of stages also the convolution between the factors of a base."""

    model_module: ClassVar[type[nn.Module] | None] = Clock

    def __init__(self, config: FreeSinewichConfig, site: Site) -> None:
        super().__init__(config, site)
        if site.stage_end and site.kind in LAYERS:
            rank, side = config.rank_at(site), config.kernel_size
            self.middle = nn.Parameter(nn.init.dirac_(torch.empty(rank, rank, side, side)))

    def base(self) -> torch.Tensor:
        """M = B W A, (out, in, k, k), in float32 at least."""
        a, b, middle = (wide(part) for part in (self.update.lora_A, self.update.lora_B, self.middle))
        return torch.einsum("oa,abuv,bi->oiuv", b, middle, a)
