"""Rows: what the frozen part of a backbone makes of one image, several tensors in one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: a part of a row: ("entry", 0) the first block's input, ("block", i) a block's output, ("keys", i) and ("values", i)
#: those of its attention, ("pooled", 0) the pooled features, ("image", 0) the image itself, ("query", 0) the query it is asked
Part = tuple[str, int]


@dataclass(frozen=True)
class Like:
    """Shape of one image's share of a tensor, its type, and whether channels (C, H, W) lie last in memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> Like:
        """Of a batch (B, ...)."""
        last = tensor.ndim == 4 and not tensor.is_contiguous()
        last = last and tensor.is_contiguous(memory_format=torch.channels_last)
        return cls(tuple(tensor.shape[1:]), tensor.dtype, last)

    def restore(self, piece: Tensor) -> Tensor:
        """A row's numbers (B, n) -> the tensor they are of, laid out as it was: kernels may round by layout."""
        tensor = piece.reshape(-1, *self.shape).to(self.dtype)
        return tensor.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


@dataclass(frozen=True)
class Layout:
    """What a row holds, part by part, what every skipped module gives, and the map that leaves the stem."""

    parts: Mapping[Part, Like]
    skipped: Mapping[nn.Module, Like]
    grid: tuple[int, int]

    @property
    def dtype(self) -> torch.dtype:
        """The type of a row, which holds every part's values: float32 or float64."""
        kinds = [like.dtype for like in self.parts.values()]
        return torch.float64 if torch.float64 in kinds else torch.float32

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return sum(torch.Size(like.shape).numel() for like in self.parts.values())

    def pack(self, parts: Mapping[Part, Tensor]) -> Tensor:
        """Parts (B, ...) -> rows (B, width); every type but the row's own fits into it without loss."""
        return torch.cat([parts[part].flatten(1).to(self.dtype) for part in self.parts], dim=1)

    def unpack(self, rows: Tensor) -> dict[Part, Tensor]:
        """The reverse of `pack`."""
        sizes = [torch.Size(like.shape).numel() for like in self.parts.values()]
        pieces = zip(self.parts.items(), rows.split(sizes, dim=1), strict=True)
        return {part: like.restore(piece) for (part, like), piece in pieces}
