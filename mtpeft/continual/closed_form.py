"""How far to go from the weights before a task to those after it, so that all tasks' losses rise least, in closed form.

Qiu et al., "Train with Perturbation, Infer after Merging", NeurIPS 2025 (arXiv 2505.22389). Around its optimum w*_i each task's
loss is a quadratic with a diagonal curvature F_i. On the line w + a D from the weights w before task t, with D = w*_t - w, the
sum over i <= t of (w + a D - w*_i)^T F_i (w + a D - w*_i) is least at

    a = - sum_i (w - w*_i)^T F_i D / sum_i D^T F_i D = <R - S w, D> / <S D, D>,  S = sum_i F_i,  R = sum_i F_i w*_i

so that two running sums stand for all tasks. Weights are by name; where they are counted from does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

Tensors = Mapping[str, torch.Tensor]


def added(sums: Tensors, more: Tensors) -> dict[str, torch.Tensor]:
    """Elementwise sums; a name that is not there yet counts as zeros."""
    return {name: sums[name] + value if name in sums else value.clone() for name, value in more.items()}


def best_share(curvature: Tensors, pull: Tensors, start: Tensors, step: Tensors) -> float:
    """a, of S `curvature`, R `pull`, w `start` and D `step`; 1 where no loss changes along D."""
    above = below = 0.0
    for name, d in step.items():
        s, d = curvature[name].double(), d.double()
        above += float(((pull[name].double() - s * start[name].double()) * d).sum())
        below += float((s * d * d).sum())
    return above / below if below else 1.0
