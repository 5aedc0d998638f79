"""The fitting pass of a run: what methods choose by a task's training data, before the task's first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from mtpeft.manager.manager import TaskManager
from mtpeft.runs.distributed import first, world


class _Again:
    """The batches that `data` gives, as often as they are asked for."""

    def __init__(self, data: Callable[[], Iterable[Any]]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data())


def fit_task(
    manager: TaskManager,
    task: str,
    data: Callable[[], Iterable[Any]],
    loss: Callable[[Any, torch.Tensor], torch.Tensor],
    message: Callable[[str], None],
) -> bool:
    """Fit the methods that ask for it, and are not fitted, to the batches (images, labels) of `data`; whether there were any.

    What they choose depends on the data alone, so that a run that was killed meanwhile chooses the same again. Of several
    processes all look at all data, and take what the first one chose.
    """
    if not manager.needs_fit(task):
        return False
    names = [attachment.spec.name for attachment in manager.methods if attachment.needs_fit(task)]
    message(f"task {task!r}: {' and '.join(names)} look{'s' * (len(names) == 1)} at the training data first")
    manager.fit(task, _Again(data), loss)
    if world() > 1:
        groups = manager.trained_state_by_task([task])
        state = first({name: tensor.cpu() for group in groups.values() for name, tensor in group.items()})
        manager.load_state_dict(state, strict=False)
    return True
