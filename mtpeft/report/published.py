"""This run beside the values that others published, where a recipe gives any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mtpeft.report.groups import Comparison, Group, Statistic, Stream
from mtpeft.report.joint_groups import JointRuns, main_value, multi_task_delta
from mtpeft.report.layout import card
from mtpeft.report.markup import Cell, key, table
from mtpeft.report.numbers import MISSING, measured, number, statistic, with_unit
from mtpeft.report.tables import known_measures

NOTE = "What others reported, as the recipe quotes it: their data, weights and ways of choosing settings may differ."
Value = tuple[str, str, Callable[[Group], Statistic]]
"""Title of the column, unit, and this run's value."""


def published_of_stream(stream: Stream) -> str:
    """The card, or nothing where no recipe has published values."""
    known = known_measures(stream)

    def find(name: str) -> Value | None:
        if name in known:
            unit = known[name]["unit"]
            return with_unit(known[name]["title"], unit), unit, partial(Group.measure, name=name)
        for place, task in enumerate(stream.tasks):
            if task["name"] == name:
                title = f"{name}: {measured(task)}"
                return title, task["unit"], partial(_at_the_end, place=place)
        return None

    return _card(stream, find)


def published_of_joint(runs: JointRuns) -> str:
    """The same for joint runs, whose measure is `delta`."""

    def find(name: str) -> Value | None:
        if name == "delta":
            return "Multi-task delta [%]", "%", multi_task_delta
        for task in runs.tasks:
            if task["name"] == name:
                return f"{name}: {measured(task)}", task["unit"], partial(main_value, task=task)
        return None

    return _card(runs, find)


def _at_the_end(group: Group, place: int) -> Statistic:
    """The task at `place`, measured at the end of the stream."""
    return group.cell(len(group.runs[0]["tasks"]) - 1, place)


def _card(comparison: Comparison, find: Callable[[str], Value | None]) -> str:
    """One row per group, then one for each published row, each once."""
    quoted: dict[tuple[str, str], Mapping[str, Any]] = {}
    for _, run in comparison.runs:
        for label, row in (run["recipe"].get("published") or {}).items():
            quoted.setdefault((label, row["source"]), row["values"])
    names = list(dict.fromkeys(name for values in quoted.values() for name in values))
    columns = {name: value for name in names if (value := find(name)) is not None}
    if not columns:
        return ""
    rows: list[list[Cell]] = [
        [key(index, group.label), "this run", *(statistic(pick(group), unit) for _, unit, pick in columns.values())]
        for index, group in enumerate(comparison.groups)
    ]
    for (label, source), values in quoted.items():
        cells = [number(values[name], unit) if name in values else MISSING for name, (_, unit, _) in columns.items()]
        rows.append([label, source, *cells])
    head = ["Method", "Source", *(title for title, _, _ in columns.values())]
    return card(
        "Beside published values", NOTE, table(f"{comparison.title}: published values", head, rows, text_columns=2)
    )
