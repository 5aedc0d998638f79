"""Learned embeddings of the frames of a clip, for methods that tell them apart."""

from __future__ import annotations

import torch

from mtpeft.errors import DataError


def frame_positions(positions: torch.Tensor, x: torch.Tensor, method: str) -> torch.Tensor:
    """Embeddings (T, 1, d) for tokens (B, T, N, d) of clips, spread over them; zeros for a single image.

    Raises `DataError` for clips of another number of frames, with the `method` that was attached for T.
    """
    frames = x.shape[1]
    if frames == 1:
        return torch.zeros_like(x)
    if frames != len(positions):
        raise DataError(
            f"clips of {frames} frames, but `{method}` was attached with num_frames={len(positions)}; they must be equal"
        )
    return positions.expand_as(x)
