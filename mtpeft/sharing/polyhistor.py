"""Polyhistor and Polyhistor-Lite: decomposed hypernetworks, and layer-wise scaling kernels.

Liu et al., "Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision Tasks", NeurIPS 2022
(arXiv 2210.03265), section 3. A matrix W (n, d) is the product Q P^T of what two small linear maps make of z: P (d, r) and
Q (n, r). In the Lite form that product is a template of the narrowest stage's size, which all layers of a position share,
and each layer scales it by a kernel K of its own that all tasks share: W = K (x) Q P^T (Kronecker product).

Vectors (biases) are weights of each layer, shared by the tasks, not generated: generating them costs k per entry, which
the 0.41 M of the Lite form leave no room for. Of two factors one starts at zero where the method's matrix starts at
zero, so the adapters start as the identity.

On Swin-T with `houlsby` adapters (rho = 4, both positions, k = 64, r = 12) the Lite generators hold 4 k r (96 + 24) = 368,640
weights, the kernels 4 * sum(s^2) = 936; with biases, embeddings and all norms 0.42 M (0.41 M published). Plain Polyhistor at
r = 12 has 5.6 M (6.41 M published; the paper's k, r and rho are not known to us).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.errors import ConfigError
from mtpeft.options import Count
from mtpeft.sharing.bank import BankFactory
from mtpeft.sharing.base import register_sharing
from mtpeft.sharing.generated import Generated, Generator, LinearMap, Shape


class Plain(nn.Module):
    """The vectors of a group of layers, the same for all tasks; they start at zero."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in shapes])

    def forward(self, z: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """z (T, L, k) only says how many tasks there are -> L tensors (T, *shape)."""
        return [torch.stack([self.values[layer]] * z.shape[0]) for layer in layers]


class LowRankGenerator(Generator):
    """W = Q P^T for layers of one shape (n, d), or for layers whose sizes are multiples s of the smallest: K (x) Q P^T."""

    def __init__(
        self, shapes: Sequence[Shape], start: float | None, dim: int, variance: float, rank: int, kernels: bool
    ) -> None:
        super().__init__(shapes, start, dim, variance)
        self.plain = Plain(shapes) if len(shapes[0]) < 2 else None
        if self.plain is not None:
            return
        self.rows, self.columns = min(shapes)
        for rows, columns in shapes:
            if rows % self.rows or columns % self.columns:
                raise ConfigError(
                    f"scaling kernels make {rows} x {columns} of a template of {self.rows} x {self.columns} only where the sizes "
                    "are multiples; give the method a 'reduction' instead of a fixed width, or take sharing 'polyhistor'"
                )
        self.rank = rank
        # a product of two factors of this spread has the spread `start`; beside a zero factor the other is 1 / sqrt(r)
        scale = math.sqrt(start / math.sqrt(rank)) if start else 1 / math.sqrt(rank)
        self.right = LinearMap(dim, self.columns * rank, scale, variance)  # P
        self.left = LinearMap(dim, self.rows * rank, scale if start else 0.0, variance)  # Q
        self.kernels = None
        if kernels:
            self.kernels = nn.ParameterList([nn.Parameter(self._kernel(shape)) for shape in shapes])

    def _kernel(self, shape: Shape) -> torch.Tensor:
        """K of a layer, (s_n, s_d): at the start it keeps the template's spread (the fan-in grows with s_d)."""
        rows, columns = shape[0] // self.rows, shape[1] // self.columns
        return torch.randn(rows, columns) / math.sqrt(columns)

    def forward(self, z: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """z (T, L, k) -> L weights (T, n_l, d_l)."""
        if self.plain is not None:
            return self.plain(z, layers)
        right = self.right(z).unflatten(-1, (self.columns, self.rank))
        left = self.left(z).unflatten(-1, (self.rows, self.rank))
        templates = (left @ right.transpose(-1, -2)).unbind(1)  # L x (T, n, d)
        if self.kernels is None:
            return list(templates)
        return [_kronecker(self.kernels[layer], t) for layer, t in zip(layers, templates, strict=True)]


def _kronecker(kernel: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    """kernel (a, b) (x) template (T, n, d) -> (T, a n, b d)."""
    product = kernel[None, :, None, :, None] * template[:, None, :, None, :]
    return product.flatten(3, 4).flatten(1, 2)


class _Decomposed(Generated):
    """What both forms share: their generators, and that the method must have matrices."""

    generator: ClassVar[type[Generator]] = LowRankGenerator
    kernels: ClassVar[bool]

    def __init__(self, factory: BankFactory, rank: Count = 12, **options: Any) -> None:
        """`rank` r of the two factors; `embedding_dim`, `hidden_dim` and `layer_norm` as in every generated source."""
        super().__init__(factory, rank=rank, kernels=self.kernels, **options)

    def group_of(self, kind: str, weight: str, tensor: torch.Tensor) -> str:
        """As in every generated source; raises `ConfigError` for a weight that has no low-rank form."""
        if tensor.ndim > 2:
            raise ConfigError(
                f"{self.factory.spec.name!r} has a weight {weight!r} of shape {tuple(tensor.shape)}; low-rank hypernetworks "
                "make matrices: take a bottleneck or low-rank method, or sharing 'hyperformer'"
            )
        return super().group_of(kind, weight, tensor)


@register_sharing("polyhistor")
class Polyhistor(_Decomposed):
    """Decomposed hypernetworks, one pair of maps per position and stage width."""

    kernels: ClassVar[bool] = False


@register_sharing("polyhistor_lite")
class PolyhistorLite(_Decomposed):
    """One pair of maps per position for all stage widths, and a scaling kernel for every layer."""

    kernels: ClassVar[bool] = True

    def group_of(self, kind: str, weight: str, tensor: torch.Tensor) -> str:
        """Matrices of one position form one group, whatever their sizes."""
        group = super().group_of(kind, weight, tensor)
        return f"{kind}_{weight}".replace(".", "-") if tensor.ndim == 2 else group
