"""What a source that chooses weights by the image is told of every image."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Query:
    """`features` (B, d): the pooled features of the backbone without any method, of clips the mean over their frames.

    The first `count` of them are the batch's own, the others fill it up and teach nothing. `training`: the forward is made
    in training mode; `learning`: a step of training follows from it.
    """

    features: torch.Tensor
    count: int
    training: bool = False
    learning: bool = False
