"""How a label becomes a tensor, and what stands for a pixel without a value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Layout:
    """The labels of a kind: their type as a tensor, what stands for "no value", and whether they have channels."""

    dtype: torch.dtype
    fill: float
    channels: bool

    def tensor(self, label: np.ndarray) -> torch.Tensor:
        """(H, W) classes stay (H, W); values become (1, H, W), vectors (C, H, W)."""
        if not self.channels:
            return torch.from_numpy(np.ascontiguousarray(label)).to(self.dtype)
        values = label[..., None] if label.ndim == 2 else label
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))).to(self.dtype)
