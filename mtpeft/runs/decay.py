"""Which weights both engines pull towards zero."""

from __future__ import annotations

from torch import nn


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether a trained weight gets weight decay: matrices do, vectors (biases, norms, scales) do not.

    Learned positions, by their name `positions`, do not either, whatever their shape.
    """
    return parameter.ndim > 1 and name.rsplit(".", 1)[-1] != "positions"
