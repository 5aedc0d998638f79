"""Hyperformer: one linear generator per weight, the baseline of Polyhistor.

Mahabadi et al., ACL 2021 (arXiv 2106.04489), section 2.2: W = reshape(H z + h), with H (size of W, k). As in the authors' code z
is normalised, the generators have a bias h, and biases and norms of the adapters are generated, too; theirs are adapters in both
positions with a norm after the bottleneck, `houlsby` with `adapter_ln="out"`. There is one difference: their generators start at
N(0, 0.01^2) whatever they make, these where the method's own weights start, so that adapters start as the identity.

On Swin-T with `houlsby` adapters of rho = 4 in both positions and k = 64 the generators of the matrices hold
4 (k + 1) * sum(d^2 / 4) = 50.9 M weights. The 70.22 M of the Polyhistor paper's table follow from no k and rho it states, and do
not determine them: generators of each block's own give about as many at rho = 16 and k = 128, as well as at rho = 8, k = 128 and
one adapter per block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from mtpeft.sharing.bank import BankFactory
from mtpeft.sharing.base import register_sharing
from mtpeft.sharing.generated import Generated, Generator, LinearMap, Shape


class LinearGenerator(Generator):
    """W = reshape(H z + h) for layers of one shape."""

    def __init__(self, shapes: Sequence[Shape], start: float | None, dim: int, variance: float, bias: bool) -> None:
        super().__init__(shapes, start, dim, variance)
        self.shape = shapes[0]
        self.map = LinearMap(dim, math.prod(self.shape), start or 0.0, variance, bias)

    def forward(self, z: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """z (T, L, k) -> L weights (T, *shape)."""
        return list(self.map(z).unflatten(-1, self.shape or (1,)).reshape(*z.shape[:2], *self.shape).unbind(1))


@register_sharing("hyperformer")
class Hyperformer(Generated):
    """Every weight of every task and layer is an affine function of z."""

    generator: ClassVar[type[Generator]] = LinearGenerator

    def __init__(
        self, factory: BankFactory, generator_bias: bool = True, layer_norm: bool = True, **options: Any
    ) -> None:
        """`generator_bias`: generators are affine; `layer_norm` and the other options as in every generated source."""
        super().__init__(factory, layer_norm=layer_norm, bias=generator_bias, **options)
