"""Linear heads for dense tasks: one value per channel and pixel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from mtpeft.backbones.stages import Scales
from mtpeft.heads.base import Head, register_head
from mtpeft.heads.resize import reach, to_image
from mtpeft.options import Count


@register_head("dense_linear")
class DenseLinearHead(Head):
    """A 1x1 convolution on the feature map, bilinearly enlarged: the linear probe of dense tasks (DINOv2, section 7.4)."""

    reads: ClassVar[str] = "map"
    sized = True

    def __init__(self, dim: int, channels: Count, stride: Count) -> None:
        """`channels` outputs; `stride` is the enlargement, by default of the task manager the one to the images' size."""
        super().__init__()
        self.conv = nn.Conv2d(dim, channels, 1)
        self.stride = stride
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, features: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        """(B, C, H, W) -> (B, channels, *size); without the images' size (B, channels, H * stride, W * stride)."""
        return to_image(self.conv(features), reach(features, self.stride), size)


@register_head("stage_linear")
class StageLinearHead(Head):
    """A 1x1 convolution on the features of every stage, enlarged to the image and added: a linear probe of all scales.

    Hariharan et al., "Hypercolumns for Object Segmentation and Fine-grained Localization", CVPR 2015, section 2.
    """

    reads: ClassVar[str] = "stages"
    sized = True

    def __init__(self, scales: Scales, channels: Count) -> None:
        """`channels` outputs."""
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(stage.dim, channels, 1, bias=i == 0) for i, stage in enumerate(scales.stages)]
        )
        self.strides = [stage.stride for stage in scales.stages]
        for conv in self.convs:
            nn.init.trunc_normal_(conv.weight, std=0.02)  # type: ignore[arg-type]
        nn.init.zeros_(self.convs[0].bias)  # type: ignore[arg-type]

    def forward(self, features: list[torch.Tensor], size: tuple[int, int] | None = None) -> torch.Tensor:
        """Maps (B, C_i, H_i, W_i) -> (B, channels, *size); without the images' size that of the finest map's cells."""
        size = reach(features[0], self.strides[0]) if size is None else size
        maps = [conv(f) for conv, f in zip(self.convs, features, strict=True)]
        out = [to_image(m, reach(m, stride), size) for m, stride in zip(maps, self.strides, strict=True)]
        return torch.stack(out).sum(dim=0)
