"""Heads over four scales: FCN, SegFormer's All-MLP and UPerNet, all mmsegmentation's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtpeft.backbones.stages import Scales
from mtpeft.heads.base import register_head
from mtpeft.heads.decode import BATCH_NORM, DecodeHead
from mtpeft.options import Count, OddSize, Rate, WholeNumber


def four_scales(kind: str, scales: Scales, **options: Any) -> dict[str, Any]:
    """The config of a head that reads every stage."""
    return {"type": f"mmseg.{kind}", "in_index": list(range(len(scales.stages))), **options}


@register_head("fcn")
class FCNHead(DecodeHead):
    """All scales enlarged to the finest, side by side, then convolutions (Long et al. 2015; as HRNet uses it)."""

    def __init__(
        self,
        scales: Scales,
        channels: Count,
        embed_dim: Count = 256,
        num_convs: WholeNumber = 1,
        kernel_size: OddSize = 1,
        dropout: Rate = 0.1,
        norm_cfg: dict[str, Any] | None = BATCH_NORM,
    ) -> None:
        """`num_convs` convolutions of width `embed_dim`, then a 1x1 convolution to `channels`."""
        config = four_scales(
            "FCNHead",
            scales,
            input_transform="resize_concat",
            channels=embed_dim,
            num_convs=num_convs,
            kernel_size=kernel_size,
            concat_input=False,
            dropout_ratio=dropout,
            norm_cfg=norm_cfg,
        )
        super().__init__(scales, channels, config)


@register_head("segformer")
class SegformerHead(DecodeHead):
    """Each scale through a 1x1 convolution to `embed_dim`, enlarged to the finest, fused by another (Xie et al. 2021).

    On scales of C_i channels: embed_dim (sum C_i + 4 embed_dim + 10) weights with batch norm, and (embed_dim + 1) per
    output channel; Swin-T, `embed_dim` 256 and 21 classes: 638,741.
    """

    def __init__(
        self,
        scales: Scales,
        channels: Count,
        embed_dim: Count = 256,
        dropout: Rate = 0.1,
        norm_cfg: dict[str, Any] | None = BATCH_NORM,
    ) -> None:
        """`embed_dim` is the width of every scale and of the fusion."""
        config = four_scales("SegformerHead", scales, channels=embed_dim, dropout_ratio=dropout, norm_cfg=norm_cfg)
        super().__init__(scales, channels, config)


@register_head("uper")
class UPerHead(DecodeHead):
    """Pyramid pooling of the coarsest scale, then a feature pyramid (Xiao et al. 2018).

    With batch norm and pooling to 1 x 1 training needs two images of the task in a batch.
    """

    def __init__(
        self,
        scales: Scales,
        channels: Count,
        embed_dim: Count = 512,
        pool_scales: Sequence[Count] = (1, 2, 3, 6),
        dropout: Rate = 0.1,
        norm_cfg: dict[str, Any] | None = BATCH_NORM,
    ) -> None:
        """`embed_dim` is the width of all convolutions; `pool_scales` are the sides of the pooled maps."""
        config = four_scales(
            "UPerHead",
            scales,
            channels=embed_dim,
            pool_scales=tuple(pool_scales),
            dropout_ratio=dropout,
            norm_cfg=norm_cfg,
        )
        super().__init__(scales, channels, config)
