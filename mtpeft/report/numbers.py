"""How numbers look in tables and labels: one rule for the page and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mtpeft.report.groups import Statistic

MISSING = "–"


def number(value: float | None, unit: str) -> str:
    """A value in its unit, without the unit: two decimals for percentages and points, else four significant digits."""
    return MISSING if value is None else _fixed(value, _decimals(value, unit))


def statistic(value: Statistic, unit: str) -> str:
    """Mean, and ± standard deviation to the same decimal where there are several runs."""
    if value.mean is None or value.std is None:
        return number(value.mean, unit)
    decimals = _decimals(value.mean, unit)
    return f"{_fixed(value.mean, decimals)} ± {_fixed(value.std, decimals)}"


def _decimals(value: float, unit: str) -> int:
    """Decimals that show four significant digits; two for percentages and points, so that a column lines up."""
    if unit in ("%", "points") or value == 0:
        return 2
    return min(max(3 - math.floor(math.log10(abs(value))), 0), 8)


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def signed(value: Statistic, unit: str) -> str:
    """As `statistic`, with a plus before a mean above zero."""
    text = statistic(value, unit)
    return f"+{text}" if value.mean is not None and float(number(value.mean, unit).replace("−", "-")) > 0 else text


def count(value: float | None) -> str:
    """A number of parameters, with separators between thousands; a mean over seeds is rounded."""
    return MISSING if value is None else f"{round(value):,}"


def with_unit(title: str, unit: str) -> str:
    """A column title with its unit in brackets."""
    return f"{title} [{unit}]" if unit else title


def measured(task: Mapping[str, Any]) -> str:
    """How a task is measured, in short: "rmse ↓ [m]", the arrow in the direction of better values if that is known."""
    arrow = {True: " ↑", False: " ↓", None: ""}[task.get("higher_is_better")]
    return with_unit(task["metric"] + arrow, task["unit"])
