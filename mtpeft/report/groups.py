"""Which runs belong together: streams (same tasks), groups (same recipe, other seeds); mean and deviation."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtpeft.errors import DataError
from mtpeft.evaluation.results import measures_of, validate
from mtpeft.runs.changes import flatten

Results = Mapping[str, Any]
BASELINES = {"linear_probe": "Linear probe (frozen)", "nearest_class_mean": "Nearest class mean (frozen)"}
SCENARIOS = {
    "task_incremental": "Task-incremental",
    "class_incremental": "Class-incremental",
    "domain_incremental": "Domain-incremental",
    "dense_incremental": "Dense tasks in turn",
}


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (n - 1) over runs; `std` is None for one run, `mean` when any run has none."""

    mean: float | None
    std: float | None = None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Statistic:
        """Over the values of all runs of a group."""
        numbers = [value for value in values if value is not None]
        if not numbers or len(numbers) < len(values):
            return cls(None)
        return cls(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ in the seed only."""

    label: str
    runs: tuple[Results, ...]

    @property
    def seeds(self) -> list[int]:
        """Seed of each run."""
        return [run["seed"] for run in self.runs]

    def over(self, pick: Callable[[Results], float | None]) -> Statistic:
        """Statistic of any number of a run."""
        return Statistic.of([pick(run) for run in self.runs])

    def measure(self, name: str) -> Statistic:
        """Statistic of a scalar measure."""
        return self.over(lambda run: measures_of(run)[name]["value"] if name in measures_of(run) else None)

    def curve(self, name: str) -> list[Statistic]:
        """Statistic per entry of a measure with one value per task; empty when a run lacks it."""
        curves = [measures_of(run).get(name, {}).get("value") for run in self.runs]
        if any(curve is None for curve in curves):
            return []
        return [Statistic.of(values) for values in zip(*curves, strict=True)]

    def cell(self, i: int, j: int) -> Statistic:
        """Statistic of R[i, j]."""
        return self.over(lambda run: run["matrix"]["values"][i][j])


@dataclass(frozen=True)
class Baseline:
    """A frozen baseline of a stream: one list of values per observation (one per seed), none if not measured."""

    label: str
    seeds: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]
    curves: tuple[tuple[float | None, ...], ...]

    @property
    def average(self) -> Statistic:
        """Average over tasks at the end of the stream."""
        return Statistic.of([_mean(values) for values in self.values])

    @property
    def curve(self) -> list[Statistic]:
        """Average over the tasks seen so far, after each task; empty when it was not measured."""
        return [Statistic.of(column) for column in zip(*self.curves, strict=True)]


@dataclass(frozen=True)
class Comparison:
    """Groups that can be compared, and the tasks they are compared on."""

    title: str
    tasks: tuple[Mapping[str, Any], ...]
    groups: tuple[Group, ...]

    @property
    def runs(self) -> list[tuple[Group, Results]]:
        """Every run with its group."""
        return [(group, run) for group in self.groups for run in group.runs]

    @property
    def seeded(self) -> bool:
        """Whether any group has more than one seed."""
        return any(len(group.runs) > 1 for group in self.groups)


@dataclass(frozen=True)
class Stream(Comparison):
    """Groups that learned the same tasks one after another, in the same scenario."""

    baselines: tuple[Baseline, ...]

    @property
    def metric(self) -> Mapping[str, Any] | None:
        """The task whose metric, unit and direction all tasks share; None when they differ."""
        kinds = {(t["metric"], t["unit"], t["higher_is_better"]) for t in self.tasks}
        return self.tasks[0] if len(kinds) == 1 else None


def streams_of(results_list: Sequence[Results]) -> list[Stream]:
    """Group validated results into streams and seeds, in the order given.

    Raises `DataError` for an empty list, invalid results, or a recipe and seed given twice.
    """
    check_results(results_list)
    return [_stream(runs) for runs in gather(results_list, _stream_key).values()]


def check_results(results_list: Sequence[Results]) -> None:
    """Raise `DataError` for an empty list or invalid results."""
    if not results_list:
        raise DataError("a report needs the results of at least one run")
    for results in results_list:
        validate(results)


def kind_of(results_list: Sequence[Results]) -> str:
    """The engine all results come from: "continual" or "joint". Raises `DataError` when they are mixed."""
    kinds = [results.get("kind", "continual") for results in results_list]
    for results, kind in zip(results_list, kinds, strict=True):
        if kind != kinds[0]:
            first = results_list[0]
            raise DataError(
                f"run {first.get('name')!r} is of kind {kinds[0]!r} and run {results.get('name')!r} of kind {kind!r}; "
                "they measure different things, so write one report for each kind"
            )
    return kinds[0] if kinds else "continual"


def recipe_without_seed(results: Results) -> dict[str, Any]:
    """The recipe apart from its top-level seed: what runs of one group share."""
    return {key: value for key, value in results["recipe"].items() if key != "seed"}


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Recipe keys that are not the same in all groups, with each group's value (`...` where absent).

    Neither the seed nor published values are among them.
    """
    recipes = [recipe_without_seed(group.runs[0]) for group in groups]
    flat = [flatten({key: value for key, value in recipe.items() if key != "published"}) for recipe in recipes]
    keys = sorted(set().union(*flat))
    table = {key: [recipe.get(key, ...) for recipe in flat] for key in keys}
    return {key: row for key, row in table.items() if len({_text(value) for value in row}) > 1}


def _text(value: Any) -> str:
    return "absent" if value is ... else json.dumps(value, sort_keys=True)


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers and len(numbers) == len(values) else None


def gather(items: Iterable[Results], key: Callable[[Results], str]) -> dict[str, list[Results]]:
    """Results by their key, in the order given."""
    found: dict[str, list[Results]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _stream_key(run: Results) -> str:
    tasks = [[task["name"], task["metric"], task["unit"], task["higher_is_better"]] for task in run["tasks"]]
    return json.dumps([run["kind"], run["scenario"], tasks])


def _group_key(run: Results) -> str:
    return json.dumps([recipe_without_seed(run), run["backbone"], run["input"]], sort_keys=True)


def _stream(runs: list[Results]) -> Stream:
    tasks = runs[0]["tasks"]
    title = f"{SCENARIOS[runs[0]['scenario']]}, {plural(len(tasks), 'task')}"
    return Stream(title, tuple(tasks), groups_of(runs), tuple(_baselines(runs)))


def groups_of(runs: Sequence[Results]) -> tuple[Group, ...]:
    """Runs of one recipe, backbone and input together. Raises `DataError` for a seed given twice."""
    groups = [Group(_name(members), tuple(members)) for members in gather(runs, _group_key).values()]
    for group in groups:
        twice = sorted({seed for seed in group.seeds if group.seeds.count(seed) > 1})
        if twice:
            raise DataError(
                f"run {group.label!r} with seed {twice[0]} was given twice; the mean over seeds would count it twice"
            )
    return tuple(_distinct(groups))


def plural(amount: int, noun: str) -> str:
    """An amount with its noun: "1 task", "2 tasks"."""
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def _name(runs: list[Results]) -> str:
    """The name of the runs; when names differ, what is left without a trailing "-seed3", else the first name."""
    names = [run["name"] for run in runs]
    bare = names if len(set(names)) == 1 else [re.sub(r"[\W_]*(seed|s)?[\W_]*\d+$", "", name) for name in names]
    return bare[0] if len(set(bare)) == 1 and bare[0] else names[0]


def _distinct(groups: list[Group]) -> list[Group]:
    """Groups of one name get the recipe keys in which they differ behind it, at most three, else a number."""
    result = []
    for group in groups:
        same = [other for other in groups if other.label == group.label]
        label = group.label
        if len(same) > 1:
            position = same.index(group)
            parts = [f"{key.split('.')[-1]}={_text(row[position])}" for key, row in list(differences(same).items())[:3]]
            label = f"{label} ({', '.join(parts)})" if parts else f"{label} ({position + 1})"
        result.append(Group(label, group.runs))
    if len({group.label for group in result}) < len(result):
        return [Group(f"{group.label} ({number})", group.runs) for number, group in enumerate(result, 1)]
    return result


def _seen(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The input of a run as baselines see it: without what augments training images."""
    return {**shown, **({"images": {**shown["images"], "train": ""}} if "images" in shown else {})}


def _baselines(runs: list[Results]) -> list[Baseline]:
    """Both baselines of every backbone and input; runs of one seed share theirs, so equal observations count once.

    Dense tasks have none.
    """
    if runs[0]["scenario"] == "dense_incremental":
        return []
    backbones = gather(runs, lambda run: json.dumps([run["backbone"], _seen(run["input"])], sort_keys=True))
    result = []
    for members in backbones.values():
        for key, title in BASELINES.items():
            measured = [run for run in members if key in run["baselines"]]
            seen = {json.dumps([run["seed"], run["baselines"][key]], sort_keys=True): run for run in measured}
            entries = [run["baselines"][key] for run in seen.values()]
            label = title if len(backbones) == 1 else f"{title}, {members[0]['backbone']['name']}"
            curves = [tuple(entry["curve"]) for entry in entries if "curve" in entry]
            values = tuple(tuple(entry["values"]) for entry in entries)
            result.append(
                Baseline(
                    label,
                    tuple(run["seed"] for run in seen.values()),
                    values,
                    tuple(curves) if entries and len(curves) == len(entries) else (),
                )
            )
    return result
