"""Tasks added to a finished run: its state, and whether the new recipe goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtpeft.continual.scenario import build_scenario
from mtpeft.data.dense.stream import DenseStream
from mtpeft.data.streams import Stream
from mtpeft.errors import ConfigError
from mtpeft.evaluation.results import read
from mtpeft.manager.manager import TaskManager
from mtpeft.runs.changes import differences
from mtpeft.runs.folder import RunFolder, read_recipe

#: keys of a recipe that the run with more tasks may have otherwise
FREE = (
    "name",
    "continue_from",
    "stream",
    "training",
    "augment",
    "cache",
    "published",
    "device",
    "checkpoint",
    "strips",
    "baselines",
    "single_task",
)
#: keys of `stream` that say which tasks there are; the tasks themselves are compared
LISTS = (
    "first",
    "tasks",
    "domains",
    "num_tasks",
    "classes_per_task",
    "order",
    "order_seed",
    "order_rng",
    "base_classes",
)


@dataclass(frozen=True)
class Earlier:
    """The run that is gone on with: how many tasks it had, its saved state, and the changes it had seen."""

    tasks: int
    state: dict[str, Any]
    continued: list[dict[str, Any]]


def earlier_run(
    path: str | Path,
    recipe: Mapping[str, Any],
    stream: Stream | DenseStream,
    manager: TaskManager,
    data_config: Mapping[str, Any],
) -> Earlier:
    """The finished run in folder `path`, for `recipe`, whose stream must be that of the run and more tasks behind it.

    Raises `ConfigError` naming what differs: another backbone, method, sharing, seed or plugins, other tasks.
    """
    known, where = read_recipe(path), f"recipe {recipe['name']}, continue_from {path}"
    folder = RunFolder(path, known)
    if "tasks" in known or "rows" in known:
        raise ConfigError(f"{where}: it is no continual run; tasks are added to those alone")
    if not folder.results.is_file():
        raise ConfigError(f"{where}: it is not complete, it has no results.json; run its recipe to the end first")
    results, state = read(folder.results), folder.state.read()
    if state is None:
        raise ConfigError(f"{where}: its state was not kept, as that of one of its plugins is not known")
    changes = [c for c in differences(known, recipe) if c.key.split(".")[0] not in FREE]
    if changes:
        raise ConfigError(f"{where}: to add tasks, these keys must be those of the run: {', '.join(map(str, changes))}")
    if results["backbone"]["fingerprint"] != manager.fingerprint:
        raise ConfigError(f"{where}: the weights of the backbone are not those of the run (their fingerprints differ)")
    old = build_scenario(
        known["stream"], data_config, known.get("augment"), int(known.get("seed", 0)), str(known["name"])
    )
    _check_tasks(known["stream"], recipe["stream"], old, stream, where)
    _check_weights(state["weights"], manager, where)
    return Earlier(len(old), state, folder.continued)


def _check_tasks(
    known: Mapping[str, Any],
    section: Mapping[str, Any],
    old: Stream | DenseStream,
    new: Stream | DenseStream,
    where: str,
) -> None:
    """The tasks of `old` are the first of `new`, which has more."""
    changes = [c for c in differences(known, section, "stream") if c.key.split(".")[1] not in LISTS]
    if isinstance(known.get("tasks"), Mapping) and isinstance(section.get("tasks"), Mapping):
        for name in known["tasks"]:
            changes += differences(known["tasks"][name], section["tasks"].get(name), f"stream.tasks.{name}")
    if changes:
        raise ConfigError(
            f"{where}: the old tasks must be those of the run, which differ in {', '.join(map(str, changes))}"
        )
    described = zip(old.describe()["tasks"], new.describe()["tasks"], strict=False)
    for number, (before, now) in enumerate(described, start=1):
        for change in differences(before, now):
            raise ConfigError(
                f"{where}: task {number} must be that of the run, {before['name']!r}; it differs in {change}"
            )
    if len(new) <= len(old):
        raise ConfigError(
            f"{where}: the run has {len(old)} tasks, the stream {len(new)}: add tasks behind those of the run"
        )


def _check_weights(weights: Mapping[str, Any], manager: TaskManager, where: str) -> None:
    """Weights shared by tasks have the same shape, however many tasks there are."""
    own = manager.trained_state()
    for name, value in ((n, v) for group in weights.values() for n, v in group.items()):
        if name in own and own[name].shape != value.shape:
            shapes = f"{tuple(value.shape)} in the run, {tuple(own[name].shape)} with the new tasks"
            raise ConfigError(f"{where}: tasks cannot be added, the shape of {name} depends on their number: {shapes}")
