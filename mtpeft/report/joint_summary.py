"""The comparison of joint runs as a table for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtpeft.report.groups import Results
from mtpeft.report.joint_groups import JointRuns, joint_runs_of, main_value, multi_task_delta
from mtpeft.report.numbers import MISSING, count, measured, signed, statistic
from mtpeft.report.tables import trainable

if TYPE_CHECKING:
    from rich.console import Console


def print_joint_summary(results: Sequence[Results], console: Console) -> None:
    """Print one row per method: trained weights, the main metric of each task, multi-task delta (mean ± std over seeds).

    Raises `MtpeftError` like `mtpeft.report.write_report`.
    """
    from mtpeft.printing import print_table

    for runs in joint_runs_of(results):
        head, rows = _rows(runs)
        print_table(console, head, rows, title=runs.title)


def markdown_table(results: Sequence[Results]) -> str:
    """The same table in GitHub's Markdown, one for each set of runs that can be compared; ends with a line break.

    Raises `MtpeftError` like `mtpeft.report.write_report`.
    """
    parts = []
    for runs in joint_runs_of(results):
        head, rows = _rows(runs)
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        parts.append("".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |\n" for line in lines))
    return "\n".join(parts)


def _rows(runs: JointRuns) -> tuple[list[str], list[list[str]]]:
    """Titles of the columns, and the cells of each group and of the single-task values."""
    head = ["method", "trainable", "heads", *(f"{t['name']} {measured(t)}" for t in runs.tasks), "delta [%]"]
    rows = []
    for group in runs.groups:
        heads = group.over(lambda run: run["parameters"]["head"])
        values = [statistic(main_value(group, task), task["unit"]) for task in runs.tasks]
        weights = [count(trainable(group).mean), count(heads.mean)]
        rows.append([group.label, *weights, *values, signed(multi_task_delta(group), "%")])
    if runs.has_references and not runs.has_reference_runs:
        values = [statistic(runs.references[task["name"]], task["unit"]) for task in runs.tasks]
        rows.append(["single-task training", MISSING, MISSING, *values, "0"])
    return head, rows
