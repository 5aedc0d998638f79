"""A linear head for dense tasks: one value per channel and pixel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from mtpeft.heads.base import Head, register_head


@register_head("dense_linear")
class DenseLinearHead(Head):
    """A 1x1 convolution on the feature map, bilinearly enlarged: the linear probe of dense tasks (DINOv2, section 7.4)."""

    reads: ClassVar[str] = "map"

    def __init__(self, dim: int, channels: int, stride: int) -> None:
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
