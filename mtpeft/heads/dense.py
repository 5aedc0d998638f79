"""Linear heads for dense tasks: one value per channel and pixel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from mtpeft.backbones.stages import Scales
from mtpeft.heads.base import Head, register_head
from mtpeft.options import Count


@register_head("dense_linear")
class DenseLinearHead(Head):
    """A 1x1 convolution on the feature map, bilinearly enlarged: the linear probe of dense tasks (DINOv2, section 7.4)."""

    reads: ClassVar[str] = "map"

    def __init__(self, dim: int, channels: Count, stride: Count) -> None:
        """`channels` outputs; `stride` is the enlargement, by default of the task manager the image over the grid."""
        super().__init__()
        self.conv = nn.Conv2d(dim, channels, 1)
        self.stride = stride
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, channels, H * stride, W * stride)."""
        out = self.conv(features)
        return nn.functional.interpolate(out, scale_factor=self.stride, mode="bilinear", align_corners=False)


@register_head("stage_linear")
class StageLinearHead(Head):
    """A 1x1 convolution on the features of every stage, enlarged to the image and added: a linear probe of all scales.

    Hariharan et al., "Hypercolumns for Object Segmentation and Fine-grained Localization", CVPR 2015, section 2.
    """

    reads: ClassVar[str] = "stages"

    def __init__(self, scales: Scales, channels: Count) -> None:
        """`channels` outputs."""
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(stage.dim, channels, 1, bias=i == 0) for i, stage in enumerate(scales.stages)]
        )
        self.image_size = scales.image_size
        for conv in self.convs:
            nn.init.trunc_normal_(conv.weight, std=0.02)  # type: ignore[arg-type]
        nn.init.zeros_(self.convs[0].bias)  # type: ignore[arg-type]

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Maps (B, C_i, H_i, W_i) -> (B, channels, H, W)."""
        size = self.image_size
        maps = [conv(f) for conv, f in zip(self.convs, features, strict=True)]
        out = [nn.functional.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps]
        return torch.stack(out).sum(dim=0)
