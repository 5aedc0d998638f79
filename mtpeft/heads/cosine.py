"""Classification by the angle between features and a direction per class, without bias: `scale * cos(f, w_c)`."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.errors import ConfigError
from mtpeft.heads.base import Head
from mtpeft.options import Positive


class CosineLayer(nn.Module):
    """One direction per class, of any length: `weight` (classes, C), truncated normal with standard deviation 0.02."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"num_classes={num_classes}: a head needs at least one class")
        self.weight = nn.Parameter(torch.empty(num_classes, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features of unit length (B, C) -> cosines (B, classes)."""
        return F.linear(features, F.normalize(self.weight, dim=1))


class Scale(nn.Module):
    """What cosines are multiplied by: `value`, fixed, or trained from there on."""

    value: float | nn.Parameter

    def __init__(self, value: Positive, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        self.value = nn.Parameter(torch.tensor(float(value))) if learned else float(value)

    def forward(self, cosines: torch.Tensor) -> torch.Tensor:
        """Cosines, of any shape -> logits."""
        return cosines * self.value


class CosineHead(Head):
    """Pooled features (B, C) -> logits (B, classes): the whole of a cosine head as one that stands alone."""

    reads: ClassVar[str] = "pooled"

    def __init__(self, weight: torch.Tensor, scale: float) -> None:
        """`weight` (classes, C), copied."""
        super().__init__()
        self.layer = CosineLayer(weight.shape[1], weight.shape[0])
        self.layer.load_state_dict({"weight": weight.detach()})
        self.layer.to(weight)
        self.scale = Scale(scale, learned=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C) -> (B, classes)."""
        return self.scale(self.layer(F.normalize(features, dim=1)))
