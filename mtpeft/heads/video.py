"""A head for classes of clips: features of the frames, pooled over time, and a linear layer.

The mean is what the adapters for video read in their papers; attention and a transformer over the frames know their
order by learned positions.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from mtpeft.errors import ConfigError, DataError
from mtpeft.heads.base import Head, register_head
from mtpeft.heads.classification import linear
from mtpeft.options import Count, Rate


@register_head("video_linear")
class VideoLinearHead(Head):
    """Features of frames (B, T, C) -> logits (B, num_classes); an image is a clip of one frame.

    `pool` mean, attention (a learned query weighs the frames) or transformer (`depth` pre-norm layers of `num_heads` heads,
    then the mean). The last two take at most `num_frames` frames. `dropout` before the linear layer (0.5 in the papers).
    """

    reads: ClassVar[str] = "frames"

    def __init__(
        self,
        dim: int,
        num_classes: Count,
        pool: Literal["mean", "attention", "transformer"] = "mean",
        dropout: Rate = 0.0,
        num_frames: Count = 8,
        depth: Count = 1,
        num_heads: Count = 4,
    ) -> None:
        super().__init__()
        if pool == "transformer" and dim % num_heads:
            raise ConfigError(f"head 'video_linear': num_heads={num_heads} does not divide the features' width {dim}")
        self.pool = pool
        if pool != "mean":
            self.positions = nn.Parameter(0.02 * torch.randn(num_frames, dim))
        if pool == "attention":
            self.query = nn.Linear(dim, 1)
        if pool == "transformer":
            layer = nn.TransformerEncoderLayer(
                dim, num_heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.fc = linear(dim, num_classes)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, num_classes)."""
        if self.pool == "attention":
            pooled = (self._shares(frames).unsqueeze(1) @ frames).squeeze(1)
        elif self.pool == "transformer":
            pooled = self.encoder(self._placed(frames)).mean(1)
        else:
            pooled = frames.mean(1)
        return self.fc(self.dropout(pooled))

    def frame_weights(self, frames: torch.Tensor) -> torch.Tensor | None:
        """The attention of `pool="attention"`."""
        return self._shares(frames) if self.pool == "attention" else None

    def linear(self) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """The mean over frames is that of what the layer gives for each."""
        return (self.fc.weight, self.fc.bias) if self.pool == "mean" else None

    def _shares(self, frames: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.query(torch.tanh(self._placed(frames))).squeeze(-1)
        return scores.softmax(dim=1)

    def _placed(self, frames: torch.Tensor) -> torch.Tensor:
        count = frames.shape[1]
        if count > len(self.positions):
            raise DataError(f"clips of {count} frames, but head 'video_linear' has num_frames={len(self.positions)}")
        return frames + self.positions[:count]
