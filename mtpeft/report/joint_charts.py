"""The figures of the page about joint runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtpeft.report.charts import NEUTRAL, Chart, chart_of, line, palette, plain, series_style, thinned
from mtpeft.report.groups import Statistic
from mtpeft.report.heatmap import colorscale, text_colour
from mtpeft.report.joint_groups import JointRuns, Task, delta_history, metric_history, multi_task_delta
from mtpeft.report.numbers import count, measured, number, statistic
from mtpeft.report.tables import trainable

STEP_AXIS = {"title": {"text": "step"}, "rangemode": "tozero", "nticks": 5}
SMALL = 230


def metric_charts(runs: JointRuns) -> list[tuple[str, Chart]]:
    """For each task: its validation metric over the steps, one line per group, the single-task value dashed."""
    charts = []
    for task in runs.tasks:
        curves = [metric_history(group, task) for group in runs.groups]
        traces = [
            line(steps, values, group.label, series_style(index))
            for index, (group, (steps, values)) in enumerate(zip(runs.groups, curves, strict=True))
            if steps
        ]
        last = max((steps[-1] for steps, _ in curves if steps), default=0)
        single = runs.references[task["name"]]
        if traces and single.mean is not None:
            traces.insert(0, _level(last, single.mean, "single-task"))
        if traces:
            label = f"validation {measured(task)} of task {task['name']} over the steps"
            y = {"title": {"text": plain(measured(task))}, "nticks": 5}
            charts.append((task["name"], chart_of(label, traces, STEP_AXIS, y, SMALL)))
    return charts


def loss_charts(runs: JointRuns) -> list[tuple[str, Chart]]:
    """For each task: its training loss over the steps, one line per run."""
    return [(task["name"], chart) for task in runs.tasks if (chart := _loss_chart(runs, task)) is not None]


def _loss_chart(runs: JointRuns, task: Task) -> Chart | None:
    traces = []
    for index, group in enumerate(runs.groups):
        for run in group.runs:
            points = thinned([p for p in run["curves"]["train_loss"] if p["task"] == task["name"]])
            if points:
                steps, losses = zip(*points, strict=True)
                name = plain(f"{group.label}, seed {run['seed']}")
                style = {"line": {"color": palette(index)[0], "width": 1.5}}
                traces.append({"x": list(steps), "y": list(losses), "name": name, "mode": "lines", **style})
    if not traces:
        return None
    label = f"training loss of task {task['name']} over the steps"
    y = {"title": {"text": "training loss"}, "nticks": 5}
    return chart_of(label, traces, STEP_AXIS, y, SMALL)


def delta_chart(runs: JointRuns) -> Chart | None:
    """Multi-task delta over the steps, the best checkpoint of each run as a large open marker; None without one."""
    curves = [delta_history(group) for group in runs.groups]
    if not any(steps for steps, _ in curves):
        return None
    traces = [_level(max(steps[-1] for steps, _ in curves if steps), 0.0, "single-task")]
    for index, (group, (steps, values)) in enumerate(zip(runs.groups, curves, strict=True)):
        traces.append(line(steps, values, group.label, series_style(index)))
        best = [run["best"] for run in group.runs if run["best"] and run["best"]["delta"] is not None]
        colour, symbol, _ = palette(index)
        marker = {"symbol": f"{symbol}-open", "size": 15, "color": colour, "line": {"width": 2}}
        points = {"x": [b["step"] for b in best], "y": [b["delta"] for b in best]}
        traces.append({**points, "name": plain(f"best of {group.label}"), "mode": "markers", "marker": marker})
    y = {"title": {"text": "multi-task delta [%]"}}
    return chart_of("multi-task delta over the steps, best checkpoints marked", traces, STEP_AXIS, y, 320)


def trade_off_chart(runs: JointRuns) -> Chart | None:
    """Multi-task delta against trainable weights, one marker per group; None for fewer than two with a delta."""
    points = []
    for index, group in enumerate(runs.groups):
        delta, weights = multi_task_delta(group), trainable(group).mean
        if delta.mean is not None and weights is not None:
            points.append((index, group.label, weights, delta))
    if len(points) < 2:
        return None
    # One more, so that methods without weights of their own have a place on a logarithmic axis.
    traces = [_trade_off(*point) for point in points]
    title = "trainable weights without heads, plus 1 (logarithmic scale)"
    x = {"title": {"text": title}, "type": "log", "tickformat": "~s", "dtick": 1}
    y = {"title": {"text": "multi-task delta [%]"}}
    return chart_of("multi-task delta against trainable weights", traces, x, y, 340)


def _trade_off(index: int, label: str, weights: float, delta: Statistic) -> dict[str, Any]:
    colour, symbol, _ = palette(index)
    trace: dict[str, Any] = {
        "x": [weights + 1],
        "y": [delta.mean],
        "mode": "markers",
        "marker": {"color": colour, "symbol": symbol, "size": 12},
        "hovertext": plain(f"{label}: {statistic(delta, '%')} % with {count(weights)} weights"),
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    if delta.std is not None:
        trace["error_y"] = {"type": "data", "array": [delta.std], "thickness": 1, "width": 4, "color": colour}
    return trace


# From conflict over none to agreement; the middle is light, and the two ends differ in grey-blind and colour-blind eyes.
DIVERGING = ["#a8480f", "#e08a4f", "#f2f2f2", "#74a3d6", "#1f4a80"]


def conflict_chart(label: str, tasks: Sequence[str], cosines: Sequence[Sequence[Statistic]]) -> Chart:
    """Cosines between the gradients of two tasks as a heat map from -1 (conflict) to 1 (agreement)."""
    total = len(tasks)
    names = [plain(task) for task in tasks]
    means = [[cell.mean for cell in row] for row in cosines]
    trace = {
        "type": "heatmap",
        "x": list(range(total)),
        "y": list(range(total)),
        "z": means,
        "zmin": -1,
        "zmax": 1,
        "colorscale": colorscale(DIVERGING),
        "showscale": False,
        "hovertext": [
            [f"{names[i]} and {names[j]}: {statistic(cell, '')}" for j, cell in enumerate(row)]
            for i, row in enumerate(cosines)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
    }
    notes = [
        {"x": j, "y": i, "text": f"{value:.2f}".replace("-", "−"), "showarrow": False}
        | {"font": {"size": 11 if total <= 6 else 9, "color": text_colour((value + 1) / 2, DIVERGING)}}
        for i, row in enumerate(means)
        for j, value in enumerate(row)
        if value is not None
    ]
    ticks = {"tickmode": "array", "tickvals": list(range(total)), "ticktext": names, "showgrid": False}
    x = {**ticks, "title": {"text": ""}, "tickangle": -40}
    y = {**ticks, "title": {"text": ""}, "autorange": "reversed"}
    return chart_of(label, [trace], x, y, height=max(220, 84 + 32 * total), annotations=notes)


def _level(last: float, value: float, name: str) -> dict[str, Any]:
    style = {"line": {"color": NEUTRAL, "width": 1.75, "dash": "dash"}}
    hover = f"{name}: {number(value, '')}<extra></extra>"
    return {"x": [0, last], "y": [value, value], "name": name, "mode": "lines", "hovertemplate": hover, **style}
