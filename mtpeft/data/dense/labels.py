"""How a label of each kind is filled, flipped, scaled and made a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtpeft.errors import UnknownNameError

Array = np.ndarray

IGNORED = 255
"""Value of a pixel without a class."""


@dataclass(frozen=True)
class Layout:
    """One kind of label: its type as a tensor, what stands for "no value", and whether it has an axis of channels."""

    dtype: torch.dtype
    fill: float
    channels: bool

    def tensor(self, label: Array) -> Tensor:
        """(H, W) classes stay (H, W); values become (1, H, W), vectors (C, H, W)."""
        if not self.channels:
            return torch.from_numpy(np.ascontiguousarray(label)).to(self.dtype)
        values = label[..., None] if label.ndim == 2 else label
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))).to(self.dtype)


LAYOUTS = {
    "semseg": Layout(torch.int64, IGNORED, channels=False),
    "parts": Layout(torch.int64, IGNORED, channels=False),
    "saliency": Layout(torch.uint8, IGNORED, channels=False),
    "edges": Layout(torch.uint8, IGNORED, channels=False),
    "depth": Layout(torch.float32, 0.0, channels=True),
    "normals": Layout(torch.float32, 0.0, channels=True),
    "regression": Layout(torch.float32, -1.0, channels=True),
    "distance": Layout(torch.float32, -1.0, channels=True),
}


def layout(kind: str, task: str) -> Layout:
    """The layout of a kind; raises `UnknownNameError` that names the task."""
    if kind not in LAYOUTS:
        raise UnknownNameError("kind of label", kind, LAYOUTS, f"task {task!r}")
    return LAYOUTS[kind]
