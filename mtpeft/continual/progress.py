"""What a run remembers of its progress: position, loss curve, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mtpeft.evaluation.matrix import AccuracyMatrix


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


@dataclass
class Measured:
    """What was measured so far: the matrix R, and what it is compared with.

    `reference`: the metric of the untrained model on each task, None where it has none; `single_task` values of tasks
    trained alone; `predictions` of each task's test set, when it was last measured.
    """

    matrix: AccuracyMatrix
    reference: list[float | None]
    single_task: list[float | None] | None = None
    baselines: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, list[int]] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Plain values of all that training finds; `single_task` is the recipe's."""
        return {
            "matrix": self.matrix.to_dict(),
            "reference": self.reference,
            "baselines": self.baselines,
            "predictions": self.predictions,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.matrix = AccuracyMatrix.from_dict(state["matrix"])
        self.reference, self.baselines = state["reference"], state["baselines"]
        self.predictions = state["predictions"]
