"""Decode heads of mmsegmentation, built from a config, for any dense task: classes, regression or binary."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.stages import Scales
from mtpeft.errors import ConfigError
from mtpeft.heads import mmlab
from mtpeft.heads.base import Head, register_head
from mtpeft.heads.resize import enlarge, reach, to_image
from mtpeft.options import Count

#: enlargements that make four taps of one grid a pyramid, finest first (mmsegmentation's MultiLevelNeck)
NECK_SCALES = (4.0, 2.0, 1.0, 0.5)
BATCH_NORM: dict[str, Any] = {"type": "BN"}


class StagesHead(Head, ABC):
    """A head that reads maps of several scales and gives one map at image size.

    `forward` takes maps (B, C_i, H_i, W_i), finest first, and returns (B, channels, H, W). Subclasses define `decode`.
    """

    reads: ClassVar[str] = "stages"
    sized = True

    def __init__(self, scales: Scales, channels: int, pyramid: bool) -> None:
        """`pyramid`: resample the taps of a plain transformer, which share one grid, to four scales."""
        super().__init__()
        self.strides = [stage.stride for stage in scales.stages]
        self.dims = [stage.dim for stage in scales.stages]
        self.image_size = scales.image_size
        self.channels = channels
        self.plain = len(set(self.strides)) == 1
        self.pyramid = pyramid
        if pyramid and self.plain and len(self.dims) != len(NECK_SCALES):
            raise ConfigError(f"{len(self.dims)} taps of one grid: a pyramid is made of {len(NECK_SCALES)}")

    @abstractmethod
    def decode(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Maps -> (B, channels, h, w) of any size."""

    def forward(self, maps: Sequence[torch.Tensor], size: tuple[int, int] | None = None) -> torch.Tensor:
        """Maps (B, C_i, H_i, W_i) -> (B, channels, *size), enlarged bilinearly.

        Without the images' size it is that of the cells: the model's own where they fit it, else cells times stride. On
        one scale what the backbone padded is cut off again; several, of different reach, are taken to cover the image.
        """
        out = self.decode(as_pyramid(maps) if self.pyramid and self.plain else list(maps))
        size = self.output_size(maps[0]) if size is None else size
        if not self.plain:
            return enlarge(out, size)
        return to_image(out, reach(maps[0], self.strides[0]), size)

    def output_size(self, finest: torch.Tensor) -> tuple[int, int]:
        """The model's own size of images where the finest map has as many cells, else cells times stride."""
        stride = self.strides[0]
        cells = finest.shape[2], finest.shape[3]
        if cells == tuple(math.ceil(side / stride) for side in self.image_size):
            return self.image_size
        return cells[0] * stride, cells[1] * stride


def as_pyramid(taps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Taps on one grid -> maps on grids of 4, 2, 1 and 0.5 times its size."""
    height, width = taps[0].shape[2:]
    sizes = [(max(1, round(height * s)), max(1, round(width * s))) for s in NECK_SCALES]
    return [enlarge(tap, size) for tap, size in zip(taps, sizes, strict=True)]


@register_head("mmseg")
class DecodeHead(StagesHead):
    """Any decode head of mmsegmentation that works alone and gives one map: `config` is its config.

    Left out of the config, these are filled in: `in_channels` (from `in_index`, by default the last stage),
    `num_classes` (= `channels`), plain batch norm, and bilinear resampling without aligned corners. `channels` inside the
    config is mmsegmentation's name for the head's width. The loss inside the head is not used: a task has its own.
    `resample` says whether the taps of a plain transformer are made a pyramid of four scales, by default where `in_index`
    is a list.
    Batch norm in training needs more than one value per channel: heads that pool to 1 x 1 (UPer, PSP) need two images.
    Raises `ConfigError` when the head refuses the config, needs another head's output, or needs compiled operators.
    """

    def __init__(
        self,
        scales: Scales,
        channels: Count,
        config: dict[str, Any],
        resample: bool | None = None,
    ) -> None:
        index = config.get("in_index", -1)
        pyramid = not isinstance(index, int) if resample is None else resample
        super().__init__(scales, channels, pyramid)
        self.name = f"mmseg.{str(config.get('type', '')).removeprefix('mmseg.')}"
        try:
            widths = self.dims[index] if isinstance(index, int) else [self.dims[i] for i in index]
        except (IndexError, TypeError) as error:
            raise ConfigError(
                f"{self.name}: in_index={index!r}, and the backbone has {len(self.dims)} stages"
            ) from error
        filled = {
            "in_index": index,
            "in_channels": widths,
            "num_classes": channels,
            "out_channels": channels,
            "threshold": 0.5,
            "norm_cfg": BATCH_NORM,
            "align_corners": False,
            # named with its scope: the runner's default scope does not know it
            "loss_decode": {"type": "mmseg.CrossEntropyLoss", "avg_non_ignore": True},
        }
        self.head = self.adapt(mmlab.build({**filled, **config}))
        self.check()

    def adapt(self, head: Any) -> nn.Module:
        """Change what mmsegmentation built, where it does not fit these inputs."""
        return head

    def decode(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Maps -> (B, channels, h, w)."""
        return self.head(maps)

    def check(self) -> None:
        """Run the head on maps without content, which costs nothing, to have errors now and not in training."""
        trial = copy.deepcopy(self).to("meta").eval()
        sides = [[max(1, math.ceil(side / stride)) for side in self.image_size] for stride in self.strides]
        maps = [torch.zeros(1, d, h, w, device="meta") for d, (h, w) in zip(self.dims, sides, strict=True)]
        try:
            with torch.no_grad():
                out = trial.decode(as_pyramid(maps) if self.pyramid and self.plain else maps)
        except mmlab.CompiledOperatorMissing as error:
            raise ConfigError(f"head {self.name}: {error}") from error
        except mmlab.REFUSALS as error:
            raise ConfigError(f"head {self.name} does not work alone on these stages: {mmlab.reason(error)}") from error
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        if not isinstance(shape, tuple) or len(shape) != 4 or shape[1] != self.channels:
            raise ConfigError(f"head {self.name} gives {shape}, not one map of {self.channels} channels")
