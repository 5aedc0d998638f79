"""One set of weights for all tasks."""

from __future__ import annotations

from typing import ClassVar

from mtpeft.sharing.bank import Bank, BankFactory
from mtpeft.sharing.base import Sharing, register_sharing


@register_sharing("shared")
class Shared(Sharing):
    """Every task uses, and trains, the same bank: sequential training forgets here."""

    single_pass: ClassVar[bool] = True

    def __init__(self, factory: BankFactory) -> None:
        """`factory` builds the bank, at once."""
        super().__init__(factory)
        self.common = factory()

    def bank(self, task: str) -> Bank:
        """The common bank."""
        return self.common

    def banks(self) -> list[Bank]:
        """The common bank alone."""
        return [self.common]
