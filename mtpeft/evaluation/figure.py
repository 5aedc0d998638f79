"""The one number by which runs are put in order."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtpeft.evaluation.results import measures_of

#: C of `trade_off`
TRADE_OFF_WEIGHTS = 10_000_000


@dataclass(frozen=True)
class Figure:
    """What is measured, its unit, and its value."""

    title: str
    unit: str
    higher_is_better: bool
    value: float

    @property
    def share(self) -> float | None:
        """The value as a share of 1; None unless it is a percentage of what is right."""
        return self.value / 100 if self.unit == "%" and self.higher_is_better and self.title != DELTA else None


DELTA = "multi-task delta"


def figure_of(results: Mapping[str, Any]) -> Figure | None:
    """The mean over the tasks at the end where all are measured alike, else the multi-task delta; None without either."""
    tasks, values = results["tasks"], list(task_values(results).values())
    joint = results["kind"] == "joint"
    delta = results["delta"] if joint else measures_of(results).get("multi_task_delta", {}).get("value")
    if len({(task["metric"], task["unit"], task["higher_is_better"]) for task in tasks}) == 1:
        numbers = [value for value in values if value is not None]
        if len(numbers) < len(values):
            return None
        task = tasks[0]
        title = f"average {task['metric']}" if len(tasks) > 1 else task["metric"]
        return Figure(title, task["unit"], task["higher_is_better"], statistics.fmean(numbers))
    return None if delta is None else Figure(DELTA, "%", True, delta)


def task_values(results: Mapping[str, Any]) -> dict[str, float | None]:
    """The main metric of each task at the end."""
    if results["kind"] == "joint":
        return {task["name"]: results["main"][task["name"]] for task in results["tasks"]}
    names = [task["name"] for task in results["tasks"]]
    return dict(zip(names, results["matrix"]["values"][-1], strict=True))


def trained_weights(results: Mapping[str, Any]) -> int:
    """Trained weights of a run, heads not counted."""
    return int(results["parameters"]["method"] + results["parameters"]["norm_bias"])


def trade_off(share: float, weights: float) -> float:
    """Performance-parameter trade-off PPT = M exp(-log10(P / C + 1)), C = 10 million (V-PETL Bench, Xin et al. 2024).

    `share` is the accuracy M from 0 to 1, `weights` P those trained, heads not counted.
    """
    return share * math.exp(-math.log10(weights / TRADE_OFF_WEIGHTS + 1))
