"""How far tasks agree on the weights they share: the cosine of their gradients (Yu et al. 2020, PCGrad, definition 1)."""

from __future__ import annotations

from typing import Any

import torch

from mtpeft.joint.data import JointData
from mtpeft.joint.model import JointModel, flatten, task_gradients


def gradient_conflict(
    model: JointModel, data: JointData, batch_size: int, batches: int, device: torch.device
) -> dict[str, Any] | None:
    """{"tasks", "cosine" (T x T)}: the mean over the first `batches` training batches, in evaluation mode.

    A pair's cosine is over the trained weights that both depend on; None where there are none, or a gradient vanishes.
    The whole result is None when no two tasks share a trained weight.
    """
    tasks = list(model.kinds)
    parameters = [p for _, p in model.manager.trainable_parameters()]
    sums = torch.zeros(len(tasks), len(tasks), dtype=torch.float64)
    counts = torch.zeros_like(sums)
    model.eval()
    for source, view in enumerate(data.train):
        for batch in data.batches("train", source, range(min(len(view), batch_size * batches)), batch_size):
            labels = {t: (r.to(device), y.to(device)) for t, (r, y) in batch["labels"].items()}
            losses = model.losses(batch["images"].to(device), labels)
            gradients = task_gradients(losses, parameters)
            for i, first in enumerate(tasks):
                for j, second in enumerate(tasks[:i]):
                    if first in gradients and second in gradients:
                        agreement = _cosine(gradients[first], gradients[second], parameters)
                        if agreement is not None:
                            sums[i, j] += agreement
                            counts[i, j] += 1
    if not counts.any():
        return None
    sums, counts = sums + sums.T, counts + counts.T
    cosine: list[list[float | None]] = [
        [1.0 if i == j else float(sums[i, j] / counts[i, j]) if counts[i, j] else None for j in range(len(tasks))]
        for i in range(len(tasks))
    ]
    return {"tasks": tasks, "cosine": cosine}


def _cosine(first: list[Any], second: list[Any], parameters: list[Any]) -> float | None:
    both = [i for i in range(len(parameters)) if first[i] is not None and second[i] is not None]
    if not both:
        return None
    a, b = (flatten(row, parameters, both).double() for row in (first, second))
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms > 0 else None
