"""What a run remembers of its progress: position, loss curve, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtpeft.evaluation.matrix import AccuracyMatrix
from mtpeft.runs.state import Parts


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

    def add(self, task: str, loss: float) -> bool:
        """One optimiser step; whether a point was made."""
        self.step += 1
        self.pending.append(loss)
        return len(self.pending) >= self.every and self.flush(task)

    def flush(self, task: str) -> bool:
        """Make a point of what is pending, if anything is; at the end of a task too, so that no point mixes two."""
        if not self.pending:
            return False
        self.points.append({"task": task, "step": self.step, "loss": sum(self.pending) / len(self.pending)})
        self.pending = []
        return True

    def of(self, task: str) -> list[dict[str, Any]]:
        """The points of one task."""
        return [point for point in self.points if point["task"] == task]


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
    _new: set[str] = field(default_factory=set)

    def add_predictions(self, task: str, predictions: list[int]) -> None:
        """Those of the measurement just made."""
        self.predictions[task] = predictions
        self._new.add(task)

    def state(self, rows: Iterable[int]) -> dict[str, Any]:
        """Plain values of all that training finds (`single_task` is the recipe's): what is new, of the matrix `rows`."""
        new, self._new = self._new, set()
        return {
            "matrix": Parts("matrix", {row: self.matrix.entries(row) for row in rows}, partial=True),
            "reference": self.reference,
            "baselines": self.baselines,
            "predictions": Parts("predictions", {task: self.predictions[task] for task in new}, partial=True),
        }

    def grow(self, new: Measured, tasks: int, samples: Sequence[int] | None) -> None:
        """After `restore` from a run of `tasks`: the references of the others, and all baselines, are those of `new`.

        `samples`: test samples of every task, where weights are isolated, so that the new tasks were what they are before
        any training all the time. Without them nothing is known of the new tasks after the earlier ones.
        """
        self.baselines, self.reference = new.baselines, [*self.reference[:tasks], *new.reference[tasks:]]
        self._new = set(self.predictions)
        for j, value in enumerate(self.reference):
            for i in range(tasks):
                if j >= tasks and samples is not None and value is not None:
                    self.matrix.set(i, j, value, samples[j])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what was saved."""
        for row, entries in state["matrix"].items():
            self.matrix.set_entries(row, entries)
        self.reference, self.baselines = state["reference"], state["baselines"]
        self.predictions = state["predictions"]
