"""The accuracy matrix R: the metric on every task after training on every task.

R[i, j] is the metric on the test set of task j after training on task i (Lopez-Paz and Ranzato 2017, Gradient
Episodic Memory, section 2). Every measure of forgetting and transfer is derived from it, so results keep the matrix
itself. The metric need not be an accuracy: each task declares its metric, unit and direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mtpeft.errors import ConfigError, DataError, UnknownNameError


@dataclass(frozen=True)
class TaskMetric:
    """How one task is measured: task name, metric name ("accuracy", "rmse"), unit ("%", "m") and direction."""

    name: str
    metric: str = "accuracy"
    unit: str = "%"
    higher_is_better: bool = True

    @property
    def sign(self) -> int:
        """+1 when a higher value is better, -1 when a lower one is."""
        return 1 if self.higher_is_better else -1


class AccuracyMatrix:
    """R[i, j] with the number of test samples behind each entry; NaN where task j was not evaluated after task i.

    `tasks` is in the order of training; T tasks make a (T, T) matrix. Raises `ConfigError` for no task or a name twice.
    """

    def __init__(self, tasks: Sequence[TaskMetric]) -> None:
        names = [task.name for task in tasks]
        if not names:
            raise ConfigError("an accuracy matrix needs at least one task")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"task {twice[0]!r} occurs twice in the stream; give every task a name of its own")
        self.tasks = list(tasks)
        self.values = np.full((len(names), len(names)), np.nan)
        self.samples = np.zeros((len(names), len(names)), dtype=np.int64)

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    def __getitem__(self, key: tuple[int, int]) -> float:
        """R[i, j]; NaN where not evaluated."""
        return float(self.values[key])

    @property
    def names(self) -> list[str]:
        """Task names in the order of training."""
        return [task.name for task in self.tasks]

    @property
    def signs(self) -> np.ndarray:
        """(T,) +1 or -1 per task: `signs * values` is a score of which more is always better."""
        return np.array([task.sign for task in self.tasks])

    def index(self, name: str) -> int:
        """Position of a task in the stream. Raises `UnknownNameError`."""
        if name not in self.names:
            raise UnknownNameError("task", name, self.names, where="accuracy matrix")
        return self.names.index(name)

    def set(self, i: int, j: int, value: float, samples: int) -> None:
        """Record the metric on task j after training on task i, and on how many test samples it was computed.

        Raises `DataError` for an index outside the matrix, a value that is not finite, or fewer than one sample.
        """
        total = len(self)
        if not (0 <= i < total and 0 <= j < total):
            raise DataError(f"entry ({i}, {j}) is outside the accuracy matrix of {total} tasks (0 to {total - 1})")
        if not math.isfinite(value):
            raise DataError(
                f"{self._place(i, j)} is {value}, not a finite number; the model diverged, try a lower learning rate"
            )
        if samples < 1:
            raise DataError(f"{self._place(i, j)} was computed on {samples} samples; a test set needs at least one")
        self.values[i, j] = value
        self.samples[i, j] = samples

    def _place(self, i: int, j: int) -> str:
        return f"{self.tasks[j].metric} on task {self.tasks[j].name!r} after training on task {self.tasks[i].name!r}"

    def row(self, i: int) -> np.ndarray:
        """(T,) copy: all tasks after training on task i."""
        return self.values[i].copy()

    def column(self, j: int) -> np.ndarray:
        """(T,) copy: task j after training on each task."""
        return self.values[:, j].copy()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: {"tasks": [...], "values": [[...]], "samples": [[...]]}, None for NaN."""
        return {
            "tasks": [asdict(task) for task in self.tasks],
            "values": [[None if math.isnan(v) else v for v in row] for row in self.values.tolist()],
            "samples": self.samples.tolist(),
        }

    def entries(self, i: int) -> list[tuple[int, float, int]]:
        """What is recorded after training on task i: (j, value, samples), as plain numbers."""
        found = np.flatnonzero(~np.isnan(self.values[i])).tolist()
        return [(j, float(self.values[i, j]), int(self.samples[i, j])) for j in found]

    def set_entries(self, i: int, entries: Iterable[tuple[int, float, int]]) -> None:
        """Record what `entries` gave."""
        for j, value, samples in entries:
            self.set(i, j, value, samples)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AccuracyMatrix:
        """The inverse of `to_dict`. Raises `DataError` when the lists are not square."""
        fields = ("name", "metric", "unit", "higher_is_better")
        matrix = cls([TaskMetric(**{key: task[key] for key in fields}) for task in data["tasks"]])
        for key in ("values", "samples"):
            rows = data[key]
            if len(rows) != len(matrix) or any(len(row) != len(matrix) for row in rows):
                raise DataError(f"matrix.{key} must be {len(matrix)} rows of {len(matrix)} entries, one per task")
        for i, row in enumerate(data["values"]):
            for j, value in enumerate(row):
                if value is not None:
                    matrix.set(i, j, value, data["samples"][i][j])
        return matrix
