"""The files of tasks/: one data set and label each, found by name and changed by `--set`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtpeft.data.dense.build import build_dense_dataset
from mtpeft.data.dense.registry import DENSE_DATASETS
from mtpeft.data.dense.sample import DenseDataset
from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.options import Section
from mtpeft.runs.paths import tasks_folder
from mtpeft.runs.recipe import load_recipe


@dataclass(frozen=True)
class Task:
    """A label of a data set and what kind of task it makes; `options` go to the kind, `data` are the data set's."""

    name: str
    dataset: str
    label: str
    kind: str
    metric: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, split: str, **defaults: Any) -> DenseDataset:
        """The data set; `defaults` hold where it has such an option and the file does not set it."""
        known = inspect.signature(DENSE_DATASETS.get(self.dataset, f"task {self.name}")).parameters
        options = {**{key: value for key, value in defaults.items() if key in known}, **self.data}
        dataset = build_dense_dataset(self.dataset, split, **options)
        if self.label not in dataset.tasks:
            raise UnknownNameError("label", self.label, dataset.tasks, f"task {self.name}, data set {self.dataset!r}")
        return dataset


def task_names() -> list[str]:
    """Names of the tasks that come with mtpeft: DATASET/LABEL."""
    root = tasks_folder()
    return sorted(file.relative_to(root).with_suffix("").as_posix() for file in root.rglob("*.py"))


def load_task(name: str, overrides: Sequence[str] = ()) -> Task:
    """A task by name or file, with `overrides` such as "data.root=/data/NYUD_MT".

    Raises `UnknownNameError` with the nearest names, or `ConfigError` for what the file lacks or nothing reads.
    """
    path = Path(name)
    if not (path.suffix == ".py" and path.is_file()):
        wanted, names = name.removesuffix(".py").removeprefix("tasks/"), task_names()
        if wanted not in names:
            raise UnknownNameError("task", name, names)
        path = tasks_folder() / f"{wanted}.py"
    values = load_recipe(str(path), [f"task.{override}" for override in overrides])
    if not isinstance(values.get("task"), dict):
        raise ConfigError(f"{path}: it must define task = dict(data=dict(name=...), label=..., kind=...)")
    section = Section(values["task"], str(path), "task.")
    data = dict(section.section("data").values)
    section.take("head", None)
    section.take("weight", None)
    task = Task(
        name=f"{path.parent.name}/{path.stem}",
        dataset=str(data.pop("name", "")),
        label=str(section.take("label")),
        kind=str(section.take("kind")),
        metric=section.take("metric", None),
        data=data,
        options=dict(section.section("options").values),
    )
    section.finish()
    if not task.dataset:
        raise ConfigError(f"{path}: task.data.name is missing: the name of a dense data set")
    return task
