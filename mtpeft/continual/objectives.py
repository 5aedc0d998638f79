"""What each experience of a stream is trained for and measured by: the engine itself knows no kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from mtpeft.data.dense.stream import DenseStream, DenseTask
from mtpeft.data.streams import Stream, StreamTask
from mtpeft.errors import DataError
from mtpeft.evaluation.matrix import TaskMetric


class Running(Protocol):
    """A metric over the batches of a test set."""

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch."""

    def value(self) -> float:
        """The metric, in its unit."""

    def predictions(self) -> list[int] | None:
        """The predicted label of every sample in the order of the test set; None where samples have no class."""

    def state(self) -> Any:
        """What was found so far, to be sent to another process."""

    def merge(self, state: Any) -> None:
        """Add what another process found, of the samples that come next."""


class Objective(Protocol):
    """One experience."""

    @property
    def metric(self) -> TaskMetric:
        """Name, unit and direction."""

    @property
    def head(self) -> Mapping[str, Any]:
        """The arguments of `TaskManager.add_task` that choose it."""

    def loss(self, output: torch.Tensor, target: torch.Tensor, count: int | None = None) -> torch.Tensor:
        """A batch's loss, a scalar: a mean over `count`, which is read from the target where it is not given."""

    def count(self, target: torch.Tensor) -> int:
        """How many labels a batch's loss is the mean of."""

    def measure(self) -> Running:
        """A fresh measurement."""


class Accuracy:
    """The share of images, in percent, whose largest output is that of their class."""

    def __init__(self) -> None:
        self.right = 0
        self.predicted: list[int] = []

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """output (B, classes), target (B,)."""
        labels = output.argmax(dim=1)
        self.right += int((labels == target).sum())
        self.predicted += labels.tolist()

    def value(self) -> float:
        """In percent."""
        return 100.0 * (self.right / len(self.predicted))

    def predictions(self) -> list[int]:
        """The class with the largest output, for every sample."""
        return self.predicted

    def state(self) -> tuple[int, list[int]]:
        """How many are right, and the predictions."""
        return self.right, self.predicted

    def merge(self, state: tuple[int, list[int]]) -> None:
        """Add those of the samples that come next."""
        self.right += state[0]
        self.predicted = [*self.predicted, *state[1]]


class Classification:
    """Cross-entropy, and accuracy."""

    def __init__(self, task: StreamTask) -> None:
        self.metric = TaskMetric(task.name)
        self.head: Mapping[str, Any] = {"num_classes": len(task.labels) or len(task.classes)}
        if task.head is not None:
            self.head = {**self.head, "head": dict(task.head)}

    def loss(self, output: torch.Tensor, target: torch.Tensor, count: int | None = None) -> torch.Tensor:
        """output (B, classes), target (B,)."""
        return F.cross_entropy(output, target)

    def count(self, target: torch.Tensor) -> int:
        """Samples."""
        return len(target)

    def measure(self) -> Running:
        """Accuracy."""
        return Accuracy()


class DenseMetric:
    """The main metric of a kind of dense tasks. Raises `DataError` where no pixel had a label."""

    def __init__(self, task: DenseTask) -> None:
        self.task, self.found = task, task.kind.measure()

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """output (B, channels, H, W), target (B, ...)."""
        self.found.update(output.float(), target)

    def value(self) -> float:
        """In the kind's unit."""
        value = self.found.compute()[self.task.kind.metric]
        if value is None:
            raise DataError(f"task {self.task.name!r}: no pixel of the validation images has a valid label")
        return value

    def predictions(self) -> None:
        """None: every pixel has a label of its own."""

    def state(self) -> Any:
        """The kind's own."""
        return self.found.state()

    def merge(self, state: Any) -> None:
        """Add what another process found."""
        self.found.merge(state)


class Dense:
    """Loss and main metric of the task's kind."""

    def __init__(self, task: DenseTask) -> None:
        kind = task.kind
        self.task = task
        self.head: Mapping[str, Any] = {"head": dict(task.head)}
        self.metric = TaskMetric(task.name, kind.metric, kind.unit, kind.higher_is_better)

    def loss(self, output: torch.Tensor, target: torch.Tensor, count: int | None = None) -> torch.Tensor:
        """Mean over valid pixels times the task's weight; output (B, channels, H, W)."""
        return self.task.weight * self.task.kind.loss(output.float(), target, count)

    def count(self, target: torch.Tensor) -> int:
        """Pixels with a valid label."""
        return int(self.task.kind.valid(target).sum())

    def measure(self) -> Running:
        """The kind's main metric."""
        return DenseMetric(self.task)


def objectives_of(stream: Stream | DenseStream) -> list[Objective]:
    """One per experience, in order."""
    if isinstance(stream, DenseStream):
        return [Dense(task) for task in stream]
    return [Classification(task) for task in stream]
