"""The bottleneck all adapters share: down, activation, dropout, up."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site

Activation = Literal["relu", "gelu", "silu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def bottleneck_width(site: Site, bottleneck_dim: int, reduction: int | None) -> int:
    """The hidden width at a site: fixed, or the site's width divided by `reduction`."""
    return bottleneck_dim if reduction is None else max(1, site.dim // reduction)


def affine_factors(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """W h + b as a product: h (..., r) with a one beside it (..., r + 1), and [W, b]^T (r + 1, d)."""
    return nn.functional.pad(hidden, (0, 1), value=1.0), torch.cat([weight, bias.unsqueeze(1)], dim=1).T


#: of a module whose `adapter` is a bottleneck: hidden units side by side (`SiteModule.beside`)
BESIDE = {"adapter.down.weight": 0, "adapter.down.bias": 0, "adapter.up.weight": 1, "adapter.up.bias": None}


class Bottleneck(nn.Module):
    """x (..., d) -> up(drop(act(down x))) (..., d); down kaiming-uniform(a = sqrt 5), up and both biases zero."""

    def __init__(self, dim: int, hidden: int, activation: str, dropout: float = 0.0) -> None:
        """`activation` is one of relu, gelu, silu."""
        super().__init__()
        self.down = nn.Linear(dim, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(hidden, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d) -> (..., d)."""
        return self.up(self.dropout(self.activation(self.down(x))))

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same as left (..., r + 1) and right (r + 1, d): hidden units with a one beside them, and [W_up, b_u]^T."""
        return affine_factors(self.dropout(self.activation(self.down(x))), self.up.weight, self.up.bias)
