"""Heads made for plain transformers: SETR, Segmenter and DPT, all mmsegmentation's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import nn

from mtpeft.backbones.stages import Scales
from mtpeft.errors import ConfigError
from mtpeft.heads.base import register_head
from mtpeft.heads.decode import BATCH_NORM, DecodeHead
from mtpeft.options import Count, OddSize, Range, Rate

#: outputs up to which Segmenter mixes masks of more queries; above it has one query per output, as published
FEW_CHANNELS = 3


@register_head("setr")
class SETRHead(DecodeHead):
    """The last map, normalised, through convolutions that each enlarge it (SETR-PUP, Zheng et al. 2021)."""

    def __init__(
        self,
        scales: Scales,
        channels: Count,
        embed_dim: Count = 256,
        num_convs: Count | None = None,
        up_scale: Annotated[int, Range(at_least=2)] = 2,
        kernel_size: OddSize = 3,
        dropout: Rate = 0.0,
        norm_cfg: dict[str, Any] | None = BATCH_NORM,
    ) -> None:
        """`num_convs` enlargements by `up_scale`; by default as many as reach the image's size, and at most four.

        One convolution of kernel 1 enlarging by 4 is SETR-Naive.
        """
        if num_convs is None:
            num_convs = min(4, max(1, round(math.log(scales.stages[-1].stride, up_scale))))
        config = {
            "type": "mmseg.SETRUPHead",
            "channels": embed_dim,
            "num_convs": num_convs,
            "up_scale": up_scale,
            "kernel_size": kernel_size,
            "dropout_ratio": dropout,
            "norm_cfg": norm_cfg,
        }
        super().__init__(scales, channels, config)


@register_head("segmenter")
class SegmenterHead(DecodeHead):
    """A transformer over the last map's patches and learned queries; masks are their cosines (Strudel et al. 2021).

    The published head normalises the masks of a pixel over the classes, so one or three of them could not take arbitrary
    values. Up to three output channels are therefore a 1x1 convolution over the masks of `queries` queries.
    """

    def __init__(
        self,
        scales: Scales,
        channels: Count,
        embed_dim: Count = 192,
        num_layers: Count = 2,
        num_heads: Count = 3,
        queries: Count = 32,
        drop_path: Rate = 0.1,
    ) -> None:
        """`num_layers` blocks of width `embed_dim`; `queries` counts only for up to three output channels."""
        if embed_dim % num_heads:
            raise ConfigError(f"segmenter: embed_dim={embed_dim} is not a multiple of num_heads={num_heads}")
        self.masks = channels if channels > FEW_CHANNELS else queries
        config = {
            "type": "mmseg.SegmenterMaskTransformerHead",
            "channels": embed_dim,
            "embed_dims": embed_dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "num_classes": self.masks,
            "out_channels": self.masks,
            "drop_path_rate": drop_path,
            "dropout_ratio": 0.0,
            "norm_cfg": {"type": "LN"},
        }
        super().__init__(scales, channels, config)

    def adapt(self, head: Any) -> nn.Module:
        """Mix the masks where there are more of them than outputs."""
        return head if self.masks == self.channels else nn.Sequential(head, nn.Conv2d(self.masks, self.channels, 1))


@register_head("dpt")
class DPTHead(DecodeHead):
    """Four taps reassembled at four scales and fused from coarse to fine by residual units (Ranftl et al. 2021).

    The published head reads patch tokens and a class token. Heads here read maps, so `readout` "add" and "project" use
    the mean over the map in the class token's place; "ignore", the default, uses neither. On a pyramid, whose maps have
    four scales already, a 1x1 convolution per scale stands for the reassembling.
    """

    def __init__(
        self,
        scales: Scales,
        channels: Count,
        embed_dim: Count = 256,
        reassemble_dims: Sequence[Count] | None = None,
        readout: Literal["ignore", "add", "project"] = "ignore",
        dropout: Rate = 0.1,
        norm_cfg: dict[str, Any] | None = BATCH_NORM,
    ) -> None:
        """`embed_dim` is the width of the fusion, `reassemble_dims` those of the scales: by default 1/8, .., 1 of the last."""
        if len(scales.stages) != 4:
            raise ConfigError(f"dpt reads four stages, and the backbone gives {len(scales.stages)}")
        dim = scales.stages[-1].dim
        dims = list(reassemble_dims or (max(1, dim // 8), max(1, dim // 4), max(1, dim // 2), dim))
        self.readout, self.reassemble_dims = readout, dims
        config = {
            "type": "mmseg.DPTHead",
            "in_index": [0, 1, 2, 3],
            "input_transform": "multiple_select",
            "channels": embed_dim,
            "embed_dims": dim,
            "post_process_channels": dims,
            "readout_type": readout,
            "dropout_ratio": dropout,
            "norm_cfg": norm_cfg,
        }
        super().__init__(scales, channels, config, resample=False)

    def adapt(self, head: Any) -> nn.Module:
        """Scales of a pyramid are only projected."""
        if not self.plain:
            if self.readout != "ignore":
                raise ConfigError(f"dpt: readout={self.readout!r} is for plain transformers; a pyramid needs 'ignore'")
            head.reassemble_blocks = Projections(self.dims, self.reassemble_dims)
        return head

    def decode(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Four maps -> (B, channels, h, w)."""
        if self.plain:
            return self.head([(tap, tap.mean(dim=(2, 3))) for tap in maps])
        return self.head(maps)


class Projections(nn.ModuleList):
    """A 1x1 convolution per scale."""

    def __init__(self, dims: Sequence[int], outputs: Sequence[int]) -> None:
        """`dims` channels in and `outputs` channels out, per scale."""
        super().__init__(nn.Conv2d(a, b, 1) for a, b in zip(dims, outputs, strict=True))

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(B, dims_i, H_i, W_i) -> (B, outputs_i, H_i, W_i)."""
        return [project(x) for project, x in zip(self, maps, strict=True)]
