"""The heat map of an accuracy matrix, with the value written in each cell in the colour that contrasts with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtpeft.report.charts import Chart, chart_of, plain
from mtpeft.report.groups import Group, Results, Stream
from mtpeft.report.numbers import number, with_unit

# One hue from light to dark: readable on a light and a dark page, in grey, and for the colour-blind.
SCALE: Sequence[str] = ["#e6eef8", "#b4cdea", "#74a3d6", "#3a74b5", "#1f4a80"]
DARK_TEXT, LIGHT_TEXT = "#10161d", "#ffffff"


def matrix_chart(stream: Stream, group: Group, run: Results) -> Chart:
    """R as a heat map: rows after training on a task, columns tasks; darker is better, in all runs alike."""
    values = run["matrix"]["values"]
    tasks = run["tasks"]
    total = len(tasks)
    positions = list(range(1, total + 1))
    shades = _shades(stream, run)
    hover = [[_hover(run, i, j) for j in range(total)] for i in range(total)]
    trace = {
        "type": "heatmap",
        "x": positions,
        "y": positions,
        "z": shades,
        "zmin": 0,
        "zmax": 1,
        "colorscale": colorscale(),
        "showscale": False,
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
    }
    size = 12 if total <= 8 else 9
    notes = [
        {"x": j + 1, "y": i + 1, "text": _short(values[i][j], tasks[j]["unit"], total), "showarrow": False}
        | {"font": {"size": size, "color": text_colour(shade)}}
        for i, row in enumerate(shades)
        for j, shade in enumerate(row)
        if shade is not None
    ]
    ticks = {"tickmode": "array", "tickvals": positions, "showgrid": False}
    columns = [plain(str(j) if stream.metric else with_unit(str(j), t["unit"])) for j, t in enumerate(tasks, 1)]
    x = {**ticks, "ticktext": columns, "title": {"text": "on task"}}
    y = {**ticks, "title": {"text": "after task"}, "autorange": "reversed"}
    label = f"accuracy matrix of {group.label}, seed {run['seed']}"
    return chart_of(label, [trace], x, y, height=max(250, 70 + 34 * total), annotations=notes)


def text_colour(shade: float, scale: Sequence[str] = SCALE) -> str:
    """Of dark and light text the one that stands out more on a shade of 0..1 (contrast ratio of WCAG 2.1)."""
    cell = luminance(colour_at(shade, scale))
    on_dark = (luminance(LIGHT_TEXT) + 0.05) / (cell + 0.05)
    on_light = (cell + 0.05) / (luminance(DARK_TEXT) + 0.05)
    return LIGHT_TEXT if on_dark > on_light else DARK_TEXT


def colour_at(shade: float, scale: Sequence[str] = SCALE) -> str:
    """The colour of a shade of 0..1, interpolated in RGB as plotly does it."""
    position = shade * (len(scale) - 1)
    step = min(int(position), len(scale) - 2)
    pairs = zip(_rgb(scale[step]), _rgb(scale[step + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (position - step)):02x}" for a, b in pairs)


def colorscale(scale: Sequence[str] = SCALE) -> list[list[Any]]:
    """A scale as plotly takes it."""
    return [[step / (len(scale) - 1), colour] for step, colour in enumerate(scale)]


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.1, definition of relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> list[int]:
    return [int(colour[k : k + 2], 16) for k in (1, 3, 5)]


def _short(value: float, unit: str, total: int) -> str:
    if unit == "%":
        return f"{value:.1f}" if total <= 8 else f"{value:.0f}"
    return f"{value:.3g}"


def _hover(run: Results, i: int, j: int) -> str:
    names = [plain(task["name"]) for task in run["tasks"]]
    value = number(run["matrix"]["values"][i][j], run["tasks"][j]["unit"])
    return f"{names[j]}<br>after {names[i]}: {value} {plain(run['tasks'][j]['unit'])}"


def _shades(stream: Stream, run: Results) -> list[list[float | None]]:
    """Entries scaled to 0 (worst) .. 1 (best) over all runs; per task when tasks are measured differently."""
    total = len(stream.tasks)
    rows = [row for _, other in stream.runs for row in other["matrix"]["values"]]
    columns: list[list[float]] = [[row[j] for row in rows if row[j] is not None] for j in range(total)]
    if stream.metric is not None:
        columns = [[value for column in columns for value in column]] * total

    def shade(value: Any, j: int) -> float | None:
        if value is None:
            return None
        low, high = min(columns[j]), max(columns[j])
        share = (value - low) / (high - low) if high > low else 1.0
        return share if stream.tasks[j]["higher_is_better"] else 1.0 - share

    return [[shade(value, j) for j, value in enumerate(row)] for row in run["matrix"]["values"]]
