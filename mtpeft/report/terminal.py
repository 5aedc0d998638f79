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
    from rich.table import Table

SHORT = {
    "average_accuracy": "average accuracy",
    "sample_weighted_accuracy": "over all samples",
    "average_forgetting": "forgetting",
    "backward_transfer": "BWT",
    "forward_transfer": "FWT",
    "average_relative_forgetting": "relative forgetting",
    "multi_task_delta": "delta",
}


def print_summary(results_list: Sequence[Results], console: Console) -> None:
    """Print the matrix of every run and, per stream, one row per method and baseline (mean ± std over seeds).

    Raises `MtpeftError` like `mtpeft.report.write_report`.
    """
    if kind_of(results_list) == "joint":
        print_joint_summary(results_list, console)
        return
    for stream in streams_of(results_list):
        for group, run in stream.runs:
            console.print(_matrix(group, run))
        console.print(_comparison(stream))


def _matrix(group: Group, run: Results) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"{group.label}, seed {run['seed']}: each task (column) after training on each task (row)"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("after")
    for j, task in enumerate(run["tasks"], 1):
        table.add_column(Text(with_unit(f"task {j}", task["unit"])), justify="right")
    for i, row in enumerate(run["matrix"]["values"]):
        # Tasks not yet learned are dim: they are no part of accuracy or forgetting.
        cells = [
            Text(number(value, run["tasks"][j]["unit"]), style="dim" if j > i else "bold" if j == i else "")
            for j, value in enumerate(row)
        ]
        table.add_row(Text(f"{i + 1}. {run['tasks'][i]['name']}"), *cells)
    return table


def _comparison(stream: Stream) -> Table:
    from rich.table import Table
    from rich.text import Text

    names = headline_measures(stream)
    known = known_measures(stream)
    table = Table(title=Text(stream.title), title_justify="left")
    table.add_column("method", no_wrap=True)
    table.add_column("seeds")
    for title in final_columns(stream):
        table.add_column(Text(title), justify="right")
    for name in names:
        table.add_column(Text(with_unit(SHORT[name], known[name]["unit"])), justify="right")
    table.add_column("trainable weights", justify="right")
    for group in stream.groups:
        values = final_cells(stream, group) + [statistic(group.measure(name), known[name]["unit"]) for name in names]
        seeds = ", ".join(map(str, group.seeds))
        table.add_row(Text(group.label), seeds, *values, count(trainable(group).mean))
    for baseline in stream.baselines:
        table.add_row(
            Text(baseline.label),
            ", ".join(map(str, baseline.seeds)) or "not measured",
            *baseline_cells(stream, baseline, names),
            "0",
            style="dim",
        )
    return table
