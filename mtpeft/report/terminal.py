"""The summary a run ends with in the terminal: the comparison table, and each matrix of a continual run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtpeft.report.groups import Group, Results, Stream, kind_of, streams_of
from mtpeft.report.joint_summary import print_joint_summary
from mtpeft.report.numbers import count, number, statistic, with_unit
from mtpeft.report.tables import (
    baseline_cells,
    final_cells,
    final_columns,
    headline_measures,
    known_measures,
    trainable,
)

if TYPE_CHECKING:
    from rich.console import Console

SHORT = {
    "average_accuracy": "average accuracy",
    "sample_weighted_accuracy": "over all samples",
    "average_forgetting": "forgetting",
    "backward_transfer": "BWT",
    "forward_transfer": "FWT",
    "average_relative_forgetting": "relative forgetting",
    "multi_task_delta": "delta",
}


LARGEST_MATRIX = 24
"""Tasks up to which the matrix is printed whole where it takes several tables."""


def print_summary(results_list: Sequence[Results], console: Console) -> None:
    """Print the matrix of every run and, per stream, one row per method and baseline (mean ± std over seeds).

    Of a matrix of many tasks that the width has no room for, each task's value when it was learned and at the end is
    printed. Raises `MtpeftError` like `mtpeft.report.write_report`.
    """
    if kind_of(results_list) == "joint":
        print_joint_summary(results_list, console)
        return
    for stream in streams_of(results_list):
        for group, run in stream.runs:
            _print_matrix(group, run, console)
        _print_comparison(stream, console)


def _print_matrix(group: Group, run: Results, console: Console) -> None:
    from rich.text import Text

    from mtpeft.printing import print_table

    tasks, values = run["tasks"], run["matrix"]["values"]
    names = [f"{j}. {task['name']}" for j, task in enumerate(tasks, 1)]
    units = {task["unit"] for task in tasks}
    unit = f", in {tasks[0]['unit']}" if len(units) == 1 and tasks[0]["unit"] else ""
    if len(tasks) > LARGEST_MATRIX and 10 * len(tasks) > console.width:
        head = ["task", *(["unit"] if len(units) > 1 else []), "when learned", "at the end"]
        rows = []
        for j, (name, task) in enumerate(zip(names, tasks, strict=True)):
            ends = [number(values[i][j], task["unit"]) for i in (j, len(tasks) - 1)]
            rows.append([name, *([task["unit"]] if len(units) > 1 else []), *ends])
        title = (
            f"{group.label}, seed {run['seed']}: each task{unit}; results.json and report.html have the whole matrix"
        )
        print_table(console, head, rows, title=title, transposable=False)
        return
    head = ["after", *(with_unit(f"task {j}", "" if unit else task["unit"]) for j, task in enumerate(tasks, 1))]
    lines: list[list[str | Text]] = []
    for i, row in enumerate(values):
        # Tasks not yet learned are dim: they are no part of accuracy or forgetting.
        cells = [
            Text(number(value, tasks[j]["unit"]), style="dim" if j > i else "bold" if j == i else "")
            for j, value in enumerate(row)
        ]
        lines.append([names[i], *cells])
    title = f"{group.label}, seed {run['seed']}: each task (column) after training on each task (row){unit}"
    print_table(console, head, lines, title=title, transposable=False)


def _print_comparison(stream: Stream, console: Console) -> None:
    from rich.text import Text

    from mtpeft.printing import print_table

    names = headline_measures(stream)
    known = known_measures(stream)
    measures = [with_unit(SHORT[name], known[name]["unit"]) for name in names]
    head = ["method", "seeds", *final_columns(stream), *measures, "trainable weights"]
    rows: list[list[str | Text]] = []
    for group in stream.groups:
        values = final_cells(stream, group) + [statistic(group.measure(name), known[name]["unit"]) for name in names]
        rows.append([group.label, ", ".join(map(str, group.seeds)), *values, count(trainable(group).mean)])
    for baseline in stream.baselines:
        seeds = ", ".join(map(str, baseline.seeds)) or "not measured"
        cells = [baseline.label, seeds, *baseline_cells(stream, baseline, names), "0"]
        rows.append([Text(cell, "dim") for cell in cells])
    print_table(console, head, rows, title=stream.title)
