"""Weights of its own for every task."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from mtpeft.sharing.bank import Bank, BankFactory
from mtpeft.sharing.base import Sharing, register_sharing


@register_sharing("per_task")
class PerTask(Sharing):
    """One bank per task; each is a set of leaves, so an optimiser's momentum or decay never moves another task."""

    isolated: ClassVar[bool] = True

    def __init__(self, factory: BankFactory) -> None:
        """`factory` builds one freshly initialised bank."""
        super().__init__(factory)
        self.tasks = nn.ModuleDict()

    def add_task(self, task: str, bank: Bank | None = None) -> None:
        """A new bank with the method's own initialisation, or the one given."""
        self.tasks[f"task={task}"] = self.factory() if bank is None else bank

    def remove_task(self, task: str) -> None:
        """Drop the task's bank."""
        del self.tasks[f"task={task}"]

    def bank(self, task: str) -> Bank:
        """The task's own bank."""
        return self.tasks[f"task={task}"]  # type: ignore[return-value]

    def banks(self) -> list[Bank]:
        """All tasks' banks."""
        return list(self.tasks.values())  # type: ignore[arg-type]
