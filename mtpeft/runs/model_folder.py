"""RUN/model: the trained weights, as `TaskManager.save` writes them, and tasks.json: what the outputs of each task mean.

tasks.json has all that a prediction needs beside the weights and the recipe's backbone, so that no data set is asked. It
is sealed as the manifest is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtpeft.data.dense.batch import DenseView
from mtpeft.data.inputs import describe_input
from mtpeft.data.streams import StreamTask
from mtpeft.dense.kinds import Kind
from mtpeft.errors import CheckpointError, ConfigError
from mtpeft.files import seal, unseal, write_atomic
from mtpeft.manager.manager import TASK_NAME, TaskManager
from mtpeft.options import Name, Section, shown, take

#: folders of a run: the model as it was at the end, and as validation data chose it
MODEL, BEST = "model", "best"
FORMAT = 1
TASKS = "tasks.json"
INDENT = 2
#: scenarios whose outputs are over the classes of all tasks, or the same classes in each
CLASS, DOMAIN, JOINT = "class_incremental", "domain_incremental", "joint"


@dataclass(frozen=True)
class ModelTask:
    """One task of a run. `weights` is the manager's task that serves it.

    `classes` are names in the order of the outputs (of a class-incremental stream: of the task's own part of them);
    `kind` is the kind of a dense task, with its `options`, and None for classes of whole inputs; `metric` is what the run
    measured, `input` how its test data were shown (see `mtpeft.data.inputs`).
    """

    name: Name
    weights: Name
    classes: tuple[str, ...]
    kind: str | None
    options: dict[str, Any]
    metric: Name
    input: dict[str, Any]

    @classmethod
    def of_classes(cls, task: StreamTask, classes: Sequence[str], weights: str) -> ModelTask:
        """A task of a stream of class labels."""
        return cls(task.name, weights, tuple(classes), None, {}, "accuracy", describe_input(task.test))

    @classmethod
    def of_kind(cls, name: str, kind: Kind, classes: Sequence[str], view: DenseView) -> ModelTask:
        """A dense task, whose test images are shown as `view` does."""
        return cls(name, name, tuple(classes), kind.name, dict(kind.options), kind.metric, describe_input(view))


@dataclass(frozen=True)
class ModelTasks:
    """All tasks of a run; `scenario` is the kind of its stream, or "joint"."""

    scenario: str
    tasks: tuple[ModelTask, ...]

    def write(self, folder: Path) -> None:
        """Write tasks.json into `folder`."""
        content = {"format": FORMAT, "scenario": self.scenario, "tasks": [asdict(task) for task in self.tasks]}
        write_atomic(folder / TASKS, seal(content, INDENT))

    @classmethod
    def read(cls, folder: Path) -> ModelTasks:
        """What `write` wrote; `CheckpointError` where there is none, it is damaged, or not as it should be."""
        file = folder / TASKS
        try:
            content = unseal(file.read_bytes(), INDENT)
        except FileNotFoundError:
            raise CheckpointError(
                f"{file} is missing: the run was made by an earlier version; mtpeft evaluate {folder.parent} writes it"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} is damaged ({error}); take another copy") from None
        if content.get("format") != FORMAT:
            raise CheckpointError(
                f"{file} has format {shown(content.get('format'))}, this version reads {FORMAT}; update mtpeft"
            )
        try:
            sections = take(list[Any], content["tasks"], "tasks")
            found = [ModelTask(**Section(section, TASKS, "tasks.").fields(ModelTask)) for section in sections]
            for task in found:  # a map's becomes part of names of files
                if task.kind is not None and not TASK_NAME.fullmatch(task.name):
                    raise ConfigError(f"a task is named {shown(task.name)}")
            return cls(take(Name, content["scenario"], "scenario"), tuple(found))
        except (ConfigError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is not what this version writes: {error}") from None


def save_model(manager: TaskManager, folder: Path, tasks: ModelTasks) -> None:
    """Write weights, manifest and tasks.json into `folder`."""
    tasks.write(folder)
    manager.save(folder)
