"""Joint runs that can be compared: the same data, tasks measured alike; values relative to single-task training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtpeft.report.groups import Comparison, Group, Results, Statistic, check_results, groups_of, plural

Task = Mapping[str, Any]


@dataclass(frozen=True)
class JointRuns(Comparison):
    """Groups trained on tasks of one data set; a group need not have all of the tasks."""

    @property
    def references(self) -> dict[str, Statistic]:
        """Single-task value of each task; runs share theirs, so equal values count once."""
        found = {}
        for task in self.tasks:
            values = {run["single_task"].get(task["name"]) for _, run in self.runs}
            found[task["name"]] = Statistic.of(sorted(value for value in values if value is not None))
        return found

    @property
    def has_reference_runs(self) -> bool:
        """Whether some group is the single-task training that the others are compared with."""
        return any(all(run["main"] == run["single_task"] for run in group.runs) for group in self.groups)

    @property
    def has_references(self) -> bool:
        """Whether there is a single-task value of any task."""
        return any(value.mean is not None for value in self.references.values())

    def without_reference(self, group: Group) -> list[str]:
        """Names of the tasks for which a run of the group lacks the single-task value."""
        missing = {name for run in group.runs for name in run["main"] if run["single_task"].get(name) is None}
        return [task["name"] for task in self.tasks if task["name"] in missing]


def joint_runs_of(results_list: Sequence[Results]) -> list[JointRuns]:
    """Results of kind "joint" that share data and measurement together, in the order given.

    Raises `DataError` for an empty list, invalid results, or a recipe and seed given twice.
    """
    check_results(results_list)
    bins: list[list[Results]] = []
    for results in results_list:
        for members in bins:
            if all(_comparable(results, other) for other in members):
                members.append(results)
                break
        else:
            bins.append([results])
    return [_joint_runs(runs) for runs in bins]


def main_value(group: Group, task: Task) -> Statistic:
    """The main metric of a task at the end of training."""
    return group.over(lambda run: run["main"].get(task["name"]))


def relative(value: float | None, single: float | None, task: Task) -> float | None:
    """Change against single-task training in percent, positive when better; None where either value is missing.

    A single-task value of zero or below has no relative change either.
    """
    if value is None or single is None or single <= 0:
        return None
    return 100.0 * (1 if task["higher_is_better"] else -1) * (value - single) / single


def task_delta(group: Group, task: Task) -> Statistic:
    """`relative` of a task's main metric."""
    name = task["name"]
    return group.over(lambda run: relative(run["main"].get(name), run["single_task"].get(name), task))


def multi_task_delta(group: Group) -> Statistic:
    """Multi-task delta of the final values, in percent."""
    return group.over(lambda run: run["delta"])


def metric_history(group: Group, task: Task) -> tuple[list[int], list[Statistic]]:
    """Steps at which every run of the group was evaluated on a task, and its main metric there."""
    return _history(group, lambda entry: entry["values"].get(task["name"], {}).get(task["metric"]))


def delta_history(group: Group) -> tuple[list[int], list[Statistic]]:
    """Steps at which every run of the group has a multi-task delta, and the delta."""
    return _history(group, lambda entry: entry["delta"])


def _history(group: Group, pick: Any) -> tuple[list[int], list[Statistic]]:
    curves = [{entry["step"]: pick(entry) for entry in run["history"]} for run in group.runs]
    steps = sorted(step for step in curves[0] if all(curve.get(step) is not None for curve in curves))
    return steps, [Statistic.of([curve[step] for curve in curves]) for step in steps]


def _comparable(first: Results, second: Results) -> bool:
    tasks = {task["name"]: task for task in first["tasks"]}
    keys = ("kind", "metric", "unit", "higher_is_better", "val_samples")
    shared = [(task, tasks[task["name"]]) for task in second["tasks"] if task["name"] in tasks]
    alike = all(one[key] == other[key] for one, other in shared for key in keys)
    return alike and data_name(first) == data_name(second)


def data_name(run: Results) -> str:
    """The data sets of a run, as its recipe names them: one for all tasks, or some with their own."""
    recipe = run["recipe"]
    sections = [recipe.get("data"), *(task.get("data") for task in recipe.get("tasks", {}).values())]
    return " and ".join(dict.fromkeys(section["name"] for section in sections if section))


def _joint_runs(runs: list[Results]) -> JointRuns:
    tasks = {task["name"]: task for run in runs for task in run["tasks"]}
    place = f" on {data_name(runs[0])}" if data_name(runs[0]) else ""
    title = f"Joint training{place}, {plural(len(tasks), 'task')}"
    return JointRuns(title, tuple(tasks.values()), groups_of(runs))
