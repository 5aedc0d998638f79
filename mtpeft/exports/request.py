"""What one export is asked to write, and what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mtpeft.errors import ConfigError
from mtpeft.exports.facts import Facts
from mtpeft.manager.manager import TaskManager
from mtpeft.manager.merging import as_linear


@dataclass(frozen=True)
class Request:
    """Tasks of a manager (a copy that an export may change), where to, and how.

    `adapters` is "merge", "keep", "separate", or None for what suits the method; `frames` those of a clip, None for images;
    `counts` the weights that each task trains.
    """

    manager: TaskManager
    tasks: tuple[str, ...]
    to: str
    adapters: str | None
    frames: int | None
    facts: Facts
    counts: Mapping[str, int]

    @property
    def task(self) -> str:
        """The one task of a target that takes one."""
        if len(self.tasks) != 1:
            raise self.refusal(f"it takes one task, not {', '.join(self.tasks)}; name one")
        return self.tasks[0]

    @property
    def what(self) -> str:
        """What errors begin with."""
        methods = " and ".join(repr(attachment.spec.name) for attachment in self.manager.methods)
        return f"{', '.join(self.tasks)} ({methods} on {type(self.manager.backbone).__name__}) to {self.to}"

    def outputs(self, task: str) -> int | None:
        """How many classes a linear head has; None for another head."""
        linear = as_linear(self.manager.head(task))
        return None if linear is None else len(linear[0])

    def refusal(self, reason: str) -> ConfigError:
        """The one line that says why not."""
        return ConfigError(f"{self.what} cannot be exported: {reason}")


@dataclass(frozen=True)
class Written:
    """The main file, the largest difference to mtpeft's outputs, and how the adapters are in there."""

    file: str
    difference: float
    adapters: str
