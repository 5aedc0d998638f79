"""`mtpeft export`: tasks of a finished run, with what the run says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtpeft.data.video.sampling import build_sampling
from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.evaluation import read
from mtpeft.exports.export import Adapters, To, export
from mtpeft.exports.facts import Facts
from mtpeft.exports.request import Written
from mtpeft.runs.loading import LoadedRun, read_run
from mtpeft.runs.model_folder import CLASS, ModelTask

#: measures of a stream that the card states
MEASURES = ("average_accuracy", "average_forgetting")


def export_run(
    folder: Path,
    path: Path,
    *,
    to: To,
    tasks: Sequence[str] | None = None,
    adapters: Adapters | None = None,
    force: bool = False,
    best: bool = False,
    trust_imports: bool = False,
) -> Written:
    """Write tasks of the run in `folder` into `path`; see `mtpeft.export` and `mtpeft.runs.loading.read_run` for errors."""
    run = read_run(folder, "cpu", trust_imports=trust_imports, best=best)
    chosen = _chosen(run, tasks)
    return export(
        run.manager,
        list(dict.fromkeys(task.weights for task in chosen)),
        to=to,
        path=path,
        adapters=adapters,
        frames=_frames(chosen),
        facts=_facts(run, chosen),
        force=force,
    )


def _chosen(run: LoadedRun, names: Sequence[str] | None) -> list[ModelTask]:
    known = {task.name: task for task in run.tasks.tasks}
    for name in names or ():
        if name not in known:
            raise UnknownNameError("task", name, known, str(run.folder))
    return [known[name] for name in names or known]


def _frames(chosen: Sequence[ModelTask]) -> int | None:
    """Those of a clip, None for images; `ConfigError` for tasks of both."""
    shown = [task.input for task in chosen]
    found = {build_sampling(**one["sampling"]).frames if one["shows"] == "clips" else None for one in shown}
    if len(found) > 1:
        raise ConfigError(
            f"tasks of images or clips of different lengths do not go into one graph: name one kind ({_names(chosen)})"
        )
    return found.pop()


def _names(chosen: Sequence[ModelTask]) -> str:
    return ", ".join(task.name for task in chosen)


def _facts(run: LoadedRun, chosen: Sequence[ModelTask]) -> Facts:
    every = [name for task in run.tasks.tasks for name in task.classes]
    classes = {task.weights: tuple(every) if run.tasks.scenario == CLASS else task.classes for task in chosen}
    backbone: Mapping[str, Any] = run.recipe["backbone"]
    return Facts(
        backbone=backbone["name"],
        options=backbone.get("options", {}),
        input=_shown(chosen[0].input),
        classes={task: names for task, names in classes.items() if names},
        data={task.weights: _data(run.recipe, task.name) for task in chosen},
        figures=_figures(read(run.folder / "results.json"), chosen),
    )


def _shown(described: Mapping[str, Any]) -> dict[str, Any]:
    """As timm's data configuration has it; what is not known there stays the backbone's own."""
    found = {**described, **described.get("transform", {})}
    keys = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    return {key: found[key] for key in keys if found.get(key) is not None}


def _data(recipe: Mapping[str, Any], task: str) -> str:
    """The names of the data sets that the recipe names for a task, else the recipe's own name."""
    own = recipe.get("tasks", {}).get(task, {})
    places = (
        own.get("data") if isinstance(own, Mapping) else None,
        recipe.get("data"),
        recipe.get("stream", {}).get("data"),
    )
    return ", ".join(next((names for place in places if (names := _types(place))), [recipe["name"]]))


def _types(section: Any) -> list[str]:
    """The type of a data set, or those of several."""
    if isinstance(section, Mapping):
        if name := section.get("type", section.get("name")):
            return [str(name)]
        section = list(section.values())
    found = [name for part in section for name in _types(part)] if isinstance(section, (list, tuple)) else []
    return list(dict.fromkeys(found))


def _figures(results: Mapping[str, Any], chosen: Sequence[ModelTask]) -> tuple[str, ...]:
    """Each task's metric at the end, and the measures of a stream."""
    names = [task["name"] for task in results["tasks"]]
    lines = []
    for task in chosen:
        facts = results["tasks"][names.index(task.name)]
        if results["kind"] == "joint":
            value = results["main"][task.name]
        else:
            value = results["matrix"]["values"][-1][names.index(task.name)]
        if value is not None:
            lines.append(f"{task.name}: {facts['metric']} {value:.4g} {facts['unit']} on test data")
    for measure in results.get("measures", ()):
        if measure["name"] in MEASURES and isinstance(measure["value"], (int, float)):
            lines.append(
                f"{measure['title']} of the run's {len(names)} tasks: {measure['value']:.4g} {measure['unit']}"
            )
    return tuple(lines)
