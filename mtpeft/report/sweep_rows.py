"""The settings of a sweep as rows: means and deviations over their runs, trained weights, class orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtpeft.evaluation.figure import Figure, trade_off
from mtpeft.report.groups import Statistic
from mtpeft.report.numbers import MISSING, count, number, statistic, with_unit
from mtpeft.runs.sweep.grid import METHOD, short, shown

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A setting. `index` is that of its method, which has a colour; a failed run leaves its means undefined."""

    index: int
    name: str
    method: str
    values: Mapping[str, Any]
    chosen: bool
    test: tuple[Run, ...]
    validation: tuple[Run, ...]
    figure: Figure | None

    def value(self, part: str = "test") -> Statistic:
        """The figure over all runs of a part."""
        runs: Sequence[Run] = getattr(self, part)
        return Statistic.of([run["value"] for run in runs])

    @property
    def weights(self) -> float | None:
        """Trained weights, heads not counted."""
        return Statistic.of([run["weights"] for run in (*self.test, *self.validation)]).mean

    @property
    def trade_off(self) -> float | None:
        """PPT of the mean; None where the figure is no share of what is right."""
        mean, weights = self.value().mean, self.weights
        if mean is None or weights is None or self.figure is None:
            return None
        share = Figure(self.figure.title, self.figure.unit, self.figure.higher_is_better, mean).share
        return None if share is None else trade_off(share, weights)

    def of_order(self, order: int) -> Statistic:
        """The figure over the seeds of one order of classes."""
        return Statistic.of([run["value"] for run in self.test if run["order"] == order])

    def spread(self, orders: Sequence[int]) -> Statistic:
        """Mean and standard deviation over the means of the orders."""
        return Statistic.of([self.of_order(order).mean for order in orders])


@dataclass(frozen=True)
class Sweep:
    """What sweep.json holds, as rows."""

    content: Mapping[str, Any]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Sweep:
        """`content` as `mtpeft.runs.sweep.results.read_sweep` gives it."""
        methods = list(dict.fromkeys(setting["method"] for setting in content["settings"]))
        figure = None if content["figure"] is None else Figure(**content["figure"], value=0.0)
        rows = [
            Row(
                methods.index(setting["method"]),
                setting["name"],
                setting["method"],
                setting["values"],
                setting["chosen"],
                tuple(setting["test"]),
                tuple(setting["validation"]),
                figure,
            )
            for setting in content["settings"]
        ]
        return cls(content, tuple(rows))

    @property
    def methods(self) -> list[str]:
        """In the order of the grid."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def tested(self) -> list[Row]:
        """The settings that were measured on the test part."""
        return [row for row in self.rows if row.test]

    @property
    def keys(self) -> list[str]:
        """The keys of the grid besides the method."""
        return [axis["key"] for axis in self.content["axes"] if axis["key"] != METHOD]

    @property
    def unit(self) -> str:
        """Of the figure."""
        return "" if self.content["figure"] is None else str(self.content["figure"]["unit"])

    @property
    def title(self) -> str:
        """The figure with its unit."""
        return with_unit(self.content["figure"]["title"], self.unit) if self.content["figure"] else "no common figure"

    def setting_titles(self) -> list[str]:
        """Titles of `setting_cells`."""
        keys = [axis["key"] for axis in self.content["axes"]]
        return ["method", *(short(key, dict.fromkeys(keys)) for key in self.keys)]

    def setting_cells(self, row: Row) -> list[str]:
        """A setting: its method, and its values of the other keys."""
        method = shown(row.values[METHOD]) if METHOD in row.values else row.method
        return [method, *(shown(row.values[key]) for key in self.keys)]

    def figure_cells(self, row: Row) -> list[str]:
        """The figure, trained weights, and PPT."""
        ratio = row.trade_off
        return [
            statistic(row.value(), self.unit),
            count(row.weights),
            MISSING if ratio is None else number(ratio, ""),
        ]

    def failed(self) -> list[tuple[str, str]]:
        """Folder and reason of every failed run."""
        runs = [run for row in self.rows for run in (*row.validation, *row.test)]
        return [(run["folder"], run["reason"]) for run in runs if run["reason"] is not None]
