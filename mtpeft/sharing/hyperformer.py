"""Hyperformer: one linear generator per weight, the baseline of Polyhistor.

Mahabadi et al., ACL 2021 (arXiv 2106.04489), section 2.2: W = reshape(H z), with H (size of W, k). Biases too are
generated. On Swin-T with `houlsby` adapters of rho = 4 in both positions and k = 64 the generators of the matrices hold
4 k * sum(d^2 / 4) = 50.1 M weights; the 70.22 M of the Polyhistor paper's table follow from no k and rho it states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from mtpeft.sharing.base import register_sharing
from mtpeft.sharing.generated import Generated, Generator, LinearMap, Shape


class LinearGenerator(Generator):
    """W = reshape(H z) for layers of one shape."""

    def __init__(self, shapes: Sequence[Shape], start: float | None, dim: int) -> None:
        super().__init__(shapes, start, dim)
        self.shape = shapes[0]
        self.map = LinearMap(dim, math.prod(self.shape), start or 0.0)

    def forward(self, z: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """z (T, L, k) -> L weights (T, *shape)."""
        return list(self.map(z).unflatten(-1, self.shape or (1,)).reshape(*z.shape[:2], *self.shape).unbind(1))


@register_sharing("hyperformer")
class Hyperformer(Generated):
    """Every weight of every task and layer is a linear function of z."""

    generator: ClassVar[type[Generator]] = LinearGenerator
