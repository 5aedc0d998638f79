"""Pro-Tuning: in front of every stage a light convolutional block makes a prompt of the feature map and adds it.

Nie et al., "Pro-tuning: Unified Prompt Tuning for Vision Tasks", IEEE TCSVT 2023 (arXiv 2207.14381). Stages are those of a
pyramid, behind its patch merging, or the quarters of a plain transformer (before blocks 0, 3, 6 and 9 of 12); prefix tokens
pass by. `blocks` names other blocks. The authors have published no code; widths and the order of the layers inside a block
follow a public re-implementation, whose channel gate (which there takes the map's place) multiplies the map here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import register
from mtpeft.options import Count, OddSize

#: hidden channels of a gate at least
FEWEST = 8


@dataclass(frozen=True, kw_only=True)
class ProTuningConfig(MethodConfig):
    """`kernel_size` of the depthwise convolution, `groups` of the first and the last one, `squeeze` of the channel gate.

    The gate has 8 hidden channels at least: a few rectified ones would all be zero at some time.
    """

    sites: Sites = ("entry",)
    kernel_size: OddSize = 5
    groups: Count = 4
    squeeze: Count = 16


@register(
    "pro_tuning",
    ProTuningConfig,
    paper="Nie et al., IEEE TCSVT 2023 (arXiv 2207.14381)",
    weights=(
        "4 * (d ** 2 + 2 * d ** 2 // groups + 2 * d ** 2 // squeeze + (kernel_size ** 2 + 5) * d + d // squeeze + 1)"
    ),
)
class ProTuning(SiteModule):
    """x + beta v, v = W_4 (t s(t)), t = W_3 DW_k W_1 x, s(t) = sigmoid(V relu(U mean(t))); beta starts at zero.

    W are 1 x 1 convolutions, DW_k is a depthwise one of k x k; W_1 and W_4 in groups.
    """

    def __init__(self, config: ProTuningConfig, site: Site) -> None:
        super().__init__(config, site)
        d, k = site.dim, config.kernel_size
        hidden = max(d // config.squeeze, FEWEST)
        self.site = site
        self.convs = nn.Sequential(
            nn.Conv2d(d, d, 1, groups=config.groups),
            nn.Conv2d(d, d, k, padding=k // 2, groups=d),
            nn.Conv2d(d, d, 1),
        )
        self.gate = nn.Sequential(nn.Conv2d(d, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, d, 1), nn.Sigmoid())
        self.out = nn.Conv2d(d, d, 1, groups=config.groups)
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What enters the stage, (B, P + HW, d) or (B, H, W, d) -> the same shape."""
        prefix, patches = self.site.split_prefix(y)
        prompt = self.convs(patches)
        prompt = self.beta * self.out(prompt * self.gate(prompt.mean(dim=(2, 3), keepdim=True)))
        if y.ndim == 4:
            return y + prompt.permute(0, 2, 3, 1)
        return torch.cat([prefix, y[:, prefix.shape[1] :] + prompt.flatten(2).transpose(1, 2)], dim=1)

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Where a stage begins, unless blocks are named."""
        if config.blocks is not None or not sites:
            return sites
        starts = {0, *(stage.block + 1 for stage in sites[0].stages[:-1])}
        return [site for site in sites if site.block in starts]

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Patches have to form a map, whose channels the groups divide."""
        if any(site.kind != "entry" for site in sites):
            return "it acts on what enters a block: sites=('entry',)"
        if any(site.grid == (0, 0) for site in sites):
            return "its convolutions need the map that the patches form, which the model does not tell"
        for width in sorted({site.dim for site in sites}):
            if width % config.groups:
                return f"groups={config.groups} does not divide a width of {width}"
        return None
