"""One set of weights for all tasks."""

from __future__ import annotations

from collections.abc import Callable

from mtpeft.sharing.bank import Bank
from mtpeft.sharing.base import Sharing, register_sharing


@register_sharing("shared")
class Shared(Sharing):
    """Every task uses, and trains, the same bank: sequential training forgets here."""

    def __init__(self, factory: Callable[[], Bank]) -> None:
        """`factory` builds the bank, at once."""
        super().__init__(factory)
        self.common = factory()

    def bank(self, task: str) -> Bank:
        """The common bank."""
        return self.common

    def banks(self) -> list[Bank]:
        """The common bank alone."""
        return [self.common]
