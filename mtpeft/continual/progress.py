"""What a run remembers of its progress: position and loss curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Position:
    """Where training stands: the next batch is `batch` of `epoch` of experience `experience`."""

    experience: int = 0
    epoch: int = 0
    batch: int = 0


@dataclass
class Curve:
    """The training loss, averaged over `every` steps per point."""

    every: int
    points: list[dict[str, Any]] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)
    step: int = 0

    def add(self, task: str, loss: float) -> None:
        """One optimiser step."""
        self.step += 1
        self.pending.append(loss)
        if len(self.pending) == self.every:
            self.flush(task)

    def flush(self, task: str) -> None:
        """Make a point of what is pending; at the end of a task too, so that no point mixes two."""
        if self.pending:
            self.points.append({"task": task, "step": self.step, "loss": sum(self.pending) / len(self.pending)})
            self.pending = []
