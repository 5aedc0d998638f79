"""InfLoRA's subspaces: in which directions a new task may change a layer, and which ones the tasks so far have taken.

Liang and Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024 (arXiv 2404.00228), section
3.2, with the update of the basis from DualGPM (Liang and Li, CVPR 2023, arXiv 2303.17093, section 3). A layer is known by the
second moment of its inputs, H = mean of x x^T (d, d), symmetric. Shares are of squared singular values of H, so of fourth
powers of the inputs' spread, as in the authors' code. All in the type of H, float64 for choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Basis:
    """Orthonormal `vectors` (d, m): with `taken` those of earlier tasks' inputs, else their complement, what is still free.

    Whichever needs fewer vectors is kept: taken ones turn into their complement once they are more than half, for good.
    """

    vectors: torch.Tensor
    taken: bool

    @property
    def free(self) -> int:
        """The dimension of what is free."""
        rows, columns = self.vectors.shape
        return rows - columns if self.taken else columns

    def within_free(self, moment: torch.Tensor) -> torch.Tensor:
        """The part of a second moment (d, d) whose columns lie in the free directions."""
        taken = self.vectors @ (self.vectors.T @ moment)
        return moment - taken if self.taken else taken


def down_projection(moment: torch.Tensor, basis: Basis | None, rank: int) -> torch.Tensor:
    """A_t (rank, d): the leading left singular vectors of the free part of the second moment, over sqrt(3).

    sqrt(3) gives entries the spread that low-rank updates start with. Rows beyond what is free are zero: nothing of them would
    leave earlier tasks alone.
    """
    free = moment if basis is None else basis.within_free(moment)
    left = torch.linalg.svd(free, full_matrices=False)[0][:, :rank].T / math.sqrt(3)
    if basis is not None:
        left[basis.free :] = 0
    return left


def grown(moment: torch.Tensor, basis: Basis | None, threshold: float) -> Basis:
    """The basis after a task: what is taken then holds `threshold` of the energy of the task's second moment.

    With the first task taken is the least number of leading directions whose next one would reach the threshold, at least 1,
    as the authors' code has it.
    """
    if basis is None:
        left, values, _ = torch.linalg.svd(moment, full_matrices=False)
        energy = values.square()
        count = max(1, int((energy.cumsum(0) / energy.sum() < threshold).sum()))
        return _smaller(Basis(left[:, :count], taken=True))
    total = torch.linalg.svdvals(moment).square().sum()
    if basis.taken:
        return _smaller(_more_taken(moment, basis, threshold, float(total)))
    return _less_free(moment, basis, threshold, float(total))


def _more_taken(moment: torch.Tensor, basis: Basis, threshold: float, total: float) -> Basis:
    left, values, _ = torch.linalg.svd(basis.within_free(moment), full_matrices=False)
    share, count = 1 - float(values.square().sum()) / total, 0
    while share < threshold and count < basis.free:
        share += float(values[count] ** 2) / total
        count += 1
    return Basis(torch.cat([basis.vectors, left[:, :count]], dim=1), taken=True)


def _less_free(moment: torch.Tensor, basis: Basis, threshold: float, total: float) -> Basis:
    left, values, _ = torch.linalg.svd(basis.within_free(moment), full_matrices=False)
    share, count = float(values.square().sum()) / total, 0
    while count < basis.free and share >= 1 - threshold:
        share -= float(values[count] ** 2) / total
        count += 1
    if count == 0:
        return basis
    lost = left[:, :count]
    rest = torch.linalg.svd(basis.vectors - lost @ (lost.T @ basis.vectors), full_matrices=False)[0]
    return Basis(rest[:, : basis.free - count], taken=False)


def _smaller(basis: Basis) -> Basis:
    """The complement, once what is taken is more than half."""
    rows, columns = basis.vectors.shape
    if 2 * columns <= rows:
        return basis
    whole = torch.linalg.svd(basis.vectors, full_matrices=True)[0]
    return Basis(whole[:, columns:], taken=False)
