"""Predictions out of several: of weight sources with several members, a pass for each, and of several views of a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map

from mtpeft.manager.protocol import Managed


def mean_of_views(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Scores (B, classes) of the same clips in several views -> the logarithm of the mean of their probabilities."""
    return torch.stack([output.log_softmax(-1) for output in outputs]).logsumexp(0) - math.log(len(outputs))


def ensembled(manager: Managed, run: Callable[[], Any]) -> Any:
    """What `run` gives under every member, combined; under the trained member alone where there is no other.

    `run` returns scores of classes (B, classes, ...), in mappings, lists and tuples if it likes; what is no score in them,
    such as indices, is that of the first member. Calls within `run` are not combined themselves.
    """
    sources = [a.weights for a in manager.methods if a.weights.members > 1]
    if not sources or manager.runtime.ensembling:
        return run()
    outputs = []
    manager.runtime.ensembling = True
    try:
        for member in range(max(source.members for source in sources)):
            for source in sources:
                source.use(member)
            outputs.append(run())
    finally:
        manager.runtime.ensembling = False
        for source in sources:
            source.use(0)

    def combine(*found: Any) -> Any:
        scores = isinstance(found[0], torch.Tensor) and found[0].is_floating_point()
        return sources[0].combine(found) if scores else found[0]

    return tree_map(combine, *outputs)
