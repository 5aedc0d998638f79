"""The decoder of MTLoRA: 1x1 convolutions over four scales, in the manner of HRNet's last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from mtpeft.backbones.stages import Scales
from mtpeft.errors import ConfigError
from mtpeft.heads.base import register_head
from mtpeft.heads.decode import StagesHead
from mtpeft.heads.resize import enlarge
from mtpeft.options import Count


@register_head("hrnet")
class HRNetHead(StagesHead):
    """Bias-free 1x1 convolutions to `widths`, enlarged to the finest scale, side by side, then 1x1 - BN - ReLU - 1x1.

    Agiza et al. 2024 (`mtlora`), whose code it follows in sizes: 18, 36, 72, 144 channels, and a hidden layer of four
    times their sum. On scales of 192, 384, 768 and 768 channels a head has 478,008 weights and 1,081 per output channel:
    1,946,624 for four tasks with 21, 7, 1 and 3 outputs (published: 1.94 M).
    """

    def __init__(
        self,
        scales: Scales,
        channels: Count,
        widths: Sequence[Count] = (18, 36, 72, 144),
        expansion: Count = 4,
    ) -> None:
        """`widths` per scale; the hidden layer has `expansion` times their sum."""
        super().__init__(scales, channels, pyramid=True)
        if len(widths) != len(scales.stages):
            raise ConfigError(
                f"hrnet: {len(widths)} widths, and the backbone gives {len(scales.stages)} scales; one for each"
            )
        self.project = nn.ModuleList(
            nn.Conv2d(stage.dim, width, 1, bias=False) for stage, width in zip(scales.stages, widths, strict=True)
        )
        total = sum(widths)
        self.fuse = nn.Sequential(
            nn.Conv2d(total, total * expansion, 1),
            nn.BatchNorm2d(total * expansion),
            nn.ReLU(),
            nn.Conv2d(total * expansion, channels, 1),
        )

    def decode(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Four maps -> (B, channels, h, w) at the finest scale."""
        projected = [conv(x) for conv, x in zip(self.project, maps, strict=True)]
        size = (maps[0].shape[2], maps[0].shape[3])
        return self.fuse(torch.cat([enlarge(x, size) for x in projected], dim=1))


@register_head("hrnet_merged")
class HRNetMergedHead(HRNetHead):
    """The same on features after patch merging, as the authors' code reads a Swin: one scale coarser, twice as wide."""

    reads: ClassVar[str] = "merged"
