"""Accuracy of every class, and which classes are taken for which, at the end of a stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mtpeft.report.charts import Chart, chart_of, line, plain, series_style
from mtpeft.report.groups import Group, Results, Statistic, Stream
from mtpeft.report.heatmap import colorscale, text_colour
from mtpeft.report.markup import key, table
from mtpeft.report.numbers import count, number, statistic

WRITTEN = 12  # classes up to which every count of a map is written out
NAMED = 30  # classes up to which the axes of a map name them, and the most in the chart of accuracies
PAIRS = 10
LONGEST, SHORT = 28, 20  # letters of a class name beside the chart of accuracies, and beside a map


class Class(NamedTuple):
    """A class of a stream; `place`: its output. `task` is empty where all tasks have the class."""

    name: str
    task: str
    place: int


Accuracies = dict[Class, list[Statistic]]


@dataclass(frozen=True)
class Counts:
    """Test samples by true class (rows) and predicted class (columns); None where a task does not have the class."""

    classes: tuple[Class, ...]
    cells: tuple[tuple[int | None, ...], ...]

    @classmethod
    def of(cls, runs: Sequence[Results]) -> Counts:
        """All tasks of all runs together."""
        found: dict[Class, dict[Class, int]] = {}
        for run in runs:
            known = run["scenario"] == "task_incremental"
            for entry in run.get("confusion", ()):
                task = entry["task"] if known else ""
                classes = [Class(name, task, place) for place, name in enumerate(entry["classes"])]
                for name in classes:
                    found.setdefault(name, {})
                for row, counts in zip(entry["rows"], entry["counts"], strict=True):
                    cells = found[classes[row]]
                    for column, amount in zip(classes, counts, strict=True):
                        cells[column] = cells.get(column, 0) + amount
        return cls(tuple(found), tuple(tuple(row.get(column) for column in found) for row in found.values()))

    @property
    def shares(self) -> list[list[float | None]]:
        """The counts as shares of the true class; None also for a class without samples."""
        totals = [sum(value or 0 for value in row) for row in self.cells]
        return [
            [None if value is None or not total else value / total for value in row]
            for row, total in zip(self.cells, totals, strict=True)
        ]

    def mistakes(self) -> list[tuple[int, int, int]]:
        """(samples, true class, predicted class), the most frequent mistake first."""
        cells = [(value or 0, i, j) for i, row in enumerate(self.cells) for j, value in enumerate(row) if i != j]
        return sorted((cell for cell in cells if cell[0]), key=lambda cell: (-cell[0], *cell[1:]))


def labels_of(classes: Sequence[Class]) -> list[str]:
    """The names of classes, with the task behind those that are not unique, and the place where that is not enough."""
    names = [one.name for one in classes]
    for more in ([one.task for one in classes], [f"{one.task} {one.place + 1}".strip() for one in classes]):
        seen = Counter(names)
        names = [
            f"{one.name} ({text})" if seen[name] > 1 and text else name
            for one, name, text in zip(classes, names, more, strict=True)
        ]
    return names


def class_accuracies(stream: Stream) -> Accuracies:
    """Accuracy in percent of every class of every task, a statistic per group."""
    tables = [[_accuracies(run) for run in group.runs] for group in stream.groups]
    classes = dict.fromkeys(one for runs in tables for run in runs for one in run)
    return {one: [Statistic.of([run.get(one) for run in runs]) for runs in tables] for one in classes}


def _accuracies(run: Results) -> dict[Class, float | None]:
    return {
        Class(entry["classes"][row], entry["task"], row): 100.0 * counts[row] / sum(counts) if any(counts) else None
        for entry in run.get("confusion", ())
        for row, counts in zip(entry["rows"], entry["counts"], strict=True)
    }


def accuracy_chart(stream: Stream, accuracies: Accuracies) -> Chart:
    """A row per class, a marker per group; of many classes those with the lowest accuracy."""
    labels = dict(zip(accuracies, labels_of(list(accuracies)), strict=True))
    lowest = sorted(accuracies, key=lambda one: _mean(accuracies[one]))[:NAMED]
    classes = [one for one in accuracies if one in set(lowest)]
    traces = []
    for index, group in enumerate(stream.groups):
        values = [accuracies[one][index] for one in classes]
        trace = line(range(len(classes)), values, group.label, series_style(index), "markers")
        trace["x"], trace["y"] = trace["y"], trace["x"]
        if "error_y" in trace:
            trace["error_x"] = trace.pop("error_y")
        hover = [f"{plain(labels[one])}: {statistic(value, '%')} %" for one, value in zip(classes, values, strict=True)]
        traces.append({**trace, "hovertext": hover, "hovertemplate": "%{hovertext}<extra></extra>"})
    y = {
        "tickmode": "array",
        "tickvals": list(range(len(classes))),
        "ticktext": [_tick(labels[one], LONGEST) for one in classes],
    }
    x = {"title": {"text": "accuracy [%]"}, "range": [-3, 103]}
    label = f"{stream.title}: accuracy of every class at the end of the stream"
    return chart_of(label, traces, x, {**y, "range": [len(classes) - 0.5, -0.5]}, height=80 + 24 * len(classes))


def accuracy_table(stream: Stream, accuracies: Accuracies) -> str:
    """The accuracies as numbers, with the task and the test samples of every class."""
    samples = {
        Class(entry["classes"][row], entry["task"], row): sum(counts)
        for _, run in stream.runs
        for entry in run.get("confusion", ())
        for row, counts in zip(entry["rows"], entry["counts"], strict=True)
    }
    rows = [
        [one.name, one.task, count(samples[one]), *(statistic(value, "%") for value in values)]
        for one, values in accuracies.items()
    ]
    methods = [key(index, f"{group.label} [%]") for index, group in enumerate(stream.groups)]
    caption = f"{stream.title}: accuracy of every class at the end of the stream"
    return table(caption, ["Class", "Task", "Test samples", *methods], rows, text_columns=2)


def confusion_chart(group: Group, counts: Counts) -> Chart:
    """The counts as a heat map, rows true, columns predicted; darker for a larger share of the true class."""
    labels, total = labels_of(counts.classes), len(counts.classes)
    names = [plain(name) for name in labels]
    shares = counts.shares
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [[None if share is None else round(share, 4) for share in row] for row in shares],
        "zmin": 0,
        "zmax": 1,
        "colorscale": colorscale(),
        "showscale": False,
        "customdata": [list(row) for row in counts.cells],
        "hovertemplate": "%{y}, taken for %{x}: %{customdata} samples (%{z:.1%})<extra></extra>",
        "xgap": 2 if total <= WRITTEN else 0,
        "ygap": 2 if total <= WRITTEN else 0,
        "hoverongaps": False,
    }
    notes = [
        {"x": names[j], "y": names[i], "text": str(counts.cells[i][j]), "showarrow": False}
        | {"font": {"size": 11 if total <= 8 else 9, "color": text_colour(share)}}
        for i, row in enumerate(shares)
        for j, share in enumerate(row)
        if share is not None and total <= WRITTEN
    ]
    # Cells are placed by name throughout: plotly would take the position 3 for the class named "3".
    ticks: dict[str, Any] = {"type": "category", "showgrid": False, "showticklabels": total <= NAMED, "ticks": ""}
    if total <= NAMED:
        ticks |= {
            "tickmode": "array",
            "tickvals": names,
            "ticktext": [_tick(name, SHORT) for name in labels],
        }
        ticks |= {"tickfont": {"size": 12 if total <= WRITTEN else 10}}
    x = {**ticks, "title": {"text": "predicted class"}, "tickangle": -40}
    y = {**ticks, "title": {"text": "true class"}, "autorange": "reversed"}
    height = max(220, 100 + 30 * total) if total <= WRITTEN else 100 + 16 * total if total <= NAMED else 420
    return chart_of(f"which classes {group.label} takes for which", [trace], x, y, height, annotations=notes)


def confusion_table(counts: Counts, title: str) -> str:
    """The counts as numbers; of many classes the most frequent mistakes."""
    names = labels_of(counts.classes)
    if len(names) <= WRITTEN:
        rows = [[name, *(count(cell) for cell in row)] for name, row in zip(names, counts.cells, strict=True)]
        return table(f"{title}: test samples by true class (row) and predicted class", ["", *names], rows)
    shares = counts.shares
    pairs = [
        [names[i], names[j], count(amount), number(100 * (shares[i][j] or 0.0), "%")]
        for amount, i, j in counts.mistakes()[:PAIRS]
    ]
    head = ["True class", "Taken for", "Samples", "of the true class [%]"]
    return table(f"{title}: the {len(pairs)} most frequent mistakes", head, pairs, text_columns=2)


def _tick(name: str, most: int) -> str:
    """A name of at most `most` letters: names of actions differ at the end as often as at the beginning."""
    half = (most - 1) // 2
    return plain(name if len(name) <= most else f"{name[: most - 1 - half]}…{name[-half:]}")


def _mean(values: Sequence[Statistic]) -> float:
    means = [value.mean for value in values if value.mean is not None]
    return sum(means) / len(means) if means else 0.0
