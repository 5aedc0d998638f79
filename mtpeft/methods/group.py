"""How some of a method's weights are trained: the parameter group they belong to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """`rate` times the optimiser's learning rate, with weight decay or without.

    `decay` None: as the shape says, a matrix decays and a vector (a bias, a norm, a scale) does not.
    """

    rate: float = 1.0
    decay: bool | None = None


#: what every weight is in of which a method says nothing
PLAIN = Group()
