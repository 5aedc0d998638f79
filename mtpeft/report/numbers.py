"""How numbers look in tables and labels: one rule for the page and the terminal."""

from __future__ import annotations

from mtpeft.report.groups import Statistic

MISSING = "–"


def number(value: float | None, unit: str) -> str:
    """A value in its unit, without the unit: two decimals for percentages and points, else four significant digits."""
    if value is None:
        return MISSING
    text = f"{value:.2f}" if unit in ("%", "points") else f"{value:.4g}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def statistic(value: Statistic, unit: str) -> str:
    """Mean, and ± standard deviation where there are several runs."""
    spread = "" if value.std is None else f" ± {number(value.std, unit)}"
    return number(value.mean, unit) + spread


def count(value: float | None) -> str:
    """A number of parameters, with separators between thousands; a mean over seeds is rounded."""
    return MISSING if value is None else f"{round(value):,}"


def with_unit(title: str, unit: str) -> str:
    """A column title with its unit in brackets."""
    return f"{title} [{unit}]" if unit else title
