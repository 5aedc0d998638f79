"""What tasks reach when each is trained alone, as a recipe gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError
from mtpeft.evaluation.results import read


def single_task_values(reference: Any, tasks: Sequence[str]) -> dict[str, float | None]:
    """The recipe's key `single_task`: nothing, {task: value}, or the folder of a run whose main values are taken.

    Raises `ConfigError` for anything else and for tasks that are not the run's.
    """
    if reference is None:
        return dict.fromkeys(tasks)
    if isinstance(reference, str):
        folder = Path(reference)
        results = read(folder / "results.json" if folder.is_dir() else folder)
        if results["kind"] != "joint":
            raise ConfigError(f"recipe key single_task: {reference} is no joint run")
        return {task: results["main"].get(task) for task in tasks}
    if not isinstance(reference, Mapping):
        raise ConfigError(f"recipe key single_task is {reference!r}: give values per task, or the folder of a run")
    for task, value in reference.items():
        if task not in tasks:
            raise ConfigError(f"recipe key single_task: {task!r} is not one of the tasks {', '.join(tasks)}")
        if value is not None and not isinstance(value, (int, float)):
            raise ConfigError(f"recipe key single_task.{task} is {value!r}, expected a number")
    return {task: None if reference.get(task) is None else float(reference[task]) for task in tasks}
