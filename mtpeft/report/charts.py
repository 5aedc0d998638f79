"""The figures of the report, as plotly JSON. Colours that depend on light or dark mode are set by script.js."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtpeft.report.groups import Comparison, Statistic, Stream
from mtpeft.report.numbers import count, measured, with_unit

# Each has a contrast of at least 3:1 against the light and the dark page (WCAG 2.1, 1.4.11); markers differ as well.
PALETTE = ["#2f7ed8", "#c9622a", "#23946b", "#b0529c", "#8d7a1a", "#7468d4", "#c64b55", "#22909f"]
NEUTRAL = "#808893"
SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star"]
GLYPHS = ["●", "■", "◆", "▲", "▼", "✚", "✖", "★"]
BASELINE_DASHES = ["dash", "dot"]  # linear probe, nearest class mean; as the dashes of the legend
LOSS_POINTS = 200


@dataclass(frozen=True)
class Chart:
    """A plotly figure as JSON text with what a reader who cannot see it is told."""

    label: str
    json: str
    height: int


def palette(index: int) -> tuple[str, str, str]:
    """Colour, plotly symbol and text glyph of a series; they repeat together only after 8 series."""
    position = index % len(PALETTE)
    return PALETTE[position], SYMBOLS[position], GLYPHS[position]


def accuracy_chart(stream: Stream) -> Chart | None:
    """Average over the tasks seen so far against their number, the baselines as lines; None when undefined."""
    curves = [(group, group.curve("accuracy_curve")) for group in stream.groups]
    if stream.metric is None or not any(curve for _, curve in curves):
        return None
    total = len(stream.tasks)
    traces = []
    for index, baseline in enumerate(stream.baselines):
        level = baseline.curve or [baseline.average] * total
        traces.append(line(range(1, total + 1), level, baseline.label, _baseline_style(index), "lines"))
    for index, (group, curve) in enumerate(curves):
        traces.append(line(range(1, len(curve) + 1), curve, group.label, series_style(index)))
    return chart_of(
        f"{stream.title}: average {stream.metric['metric']} against the number of tasks learned",
        traces,
        x=_task_axis(total, "tasks learned"),
        y={"title": {"text": plain(with_unit("average " + stream.metric["metric"], stream.metric["unit"]))}},
        height=380,
    )


def seen_charts(stream: Stream) -> list[tuple[str, Chart]]:
    """Of a class-incremental stream: accuracy over the test samples of all classes seen so far, and of earlier tasks' alone.

    Against the number of tasks learned, one line per group; with titles. Charts that no run has values for are left out.
    """
    if stream.metric is None or stream.runs[0][1]["scenario"] != "class_incremental":
        return []
    total = len(stream.tasks)
    charts = []
    for name, first, title in (
        ("seen_accuracy_curve", 1, "All classes seen so far"),
        ("old_accuracy_curve", 2, "Classes of earlier tasks"),
    ):
        curves = [group.curve(name) for group in stream.groups]
        if not any(curves):
            continue
        traces = [
            line(range(first, first + len(curve)), curve, group.label, series_style(index))
            for index, (group, curve) in enumerate(zip(stream.groups, curves, strict=True))
        ]
        y = {"title": {"text": plain(measured(stream.metric))}}
        label = f"{stream.title}: {title[0].lower()}{title[1:]}, {stream.metric['metric']} against tasks learned"
        charts.append((title, chart_of(label, traces, _task_axis(total, "tasks learned"), y, height=300)))
    return charts


def forgetting_charts(stream: Stream) -> list[tuple[str, Chart]]:
    """For each task but the last: its metric after each later task, one line per group; with task names."""
    total = len(stream.tasks)
    limits = _limits(stream)
    charts = []
    for j, task in enumerate(stream.tasks[:-1]):
        traces = [
            line(range(j + 1, total + 1), [group.cell(i, j) for i in range(j, total)], group.label, series_style(index))
            for index, group in enumerate(stream.groups)
        ]
        y: dict[str, Any] = {"title": {"text": plain(measured(task))}}
        if limits is not None:
            y["range"] = limits
        label = f"{task['metric']} on task {j + 1}, {task['name']}, after each task from {j + 1} to {total}"
        charts.append((task["name"], chart_of(label, traces, _task_axis(total, "tasks learned"), y, height=240)))
    return charts


def learning_chart(stream: Stream) -> Chart | None:
    """The metric of each task right after it was learned, R[j, j]; None when tasks are measured differently."""
    if stream.metric is None:
        return None
    total = len(stream.tasks)
    traces = [
        line(range(1, total + 1), [group.cell(j, j) for j in range(total)], group.label, series_style(index))
        for index, group in enumerate(stream.groups)
    ]
    y = {"title": {"text": plain(with_unit(stream.metric["metric"], stream.metric["unit"]))}}
    label = f"{stream.title}: {stream.metric['metric']} on each task right after it was learned"
    return chart_of(label, traces, _task_axis(total, "task"), y, height=300)


def loss_chart(stream: Stream) -> Chart | None:
    """Training loss over the steps of the stream, one line per run; None when no run recorded it."""
    traces = []
    for index, group in enumerate(stream.groups):
        for run in group.runs:
            points = thinned(run["curves"]["train_loss"])
            if points:
                steps, losses = zip(*points, strict=True)
                name = f"{group.label}, seed {run['seed']}"
                style = {"line": {"color": palette(index)[0], "width": 1.5}}
                traces.append({"x": list(steps), "y": list(losses), "name": plain(name), "mode": "lines", **style})
    if not traces:
        return None
    label = f"{stream.title}: training loss over the steps of the stream"
    y = {"title": {"text": "training loss"}, "rangemode": "tozero"}
    return chart_of(label, traces, {"title": {"text": "step"}, "rangemode": "tozero"}, y, height=300)


def parameter_chart(stream: Comparison, trainable: Sequence[Statistic]) -> Chart:
    """Trainable weights per group, heads not counted; logarithmic when the largest is over 50 times the smallest."""
    values = [statistic.mean or 0.0 for statistic in trainable]
    positive = [value for value in values if value > 0]
    logarithmic = bool(positive) and max(positive) > 50 * min(positive)
    labels = [plain(group.label) for group in stream.groups]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": list(range(len(labels))),
        "text": [count(value) for value in values],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": labels,
        "hovertemplate": "%{hovertext}: %{text}<extra></extra>",
        "marker": {"color": [palette(index)[0] for index in range(len(labels))]},
        "width": 0.6,
    }
    x: dict[str, Any] = {"title": {"text": "trainable weights" + (" (logarithmic scale)" if logarithmic else "")}}
    if logarithmic:
        low, high = math.floor(math.log10(min(positive))) - 1, math.log10(max(positive))
        x |= {"type": "log", "range": [low, low + 1.25 * (high - low)], "dtick": 1}
    else:
        x |= {"range": [0, 1.25 * max([*positive, 1])]}
    y = {"tickmode": "array", "tickvals": trace["y"], "ticktext": labels, "autorange": "reversed", "showgrid": False}
    chart = chart_of(f"{stream.title}: trainable weights per method", [trace], x, y, height=90 + 38 * len(labels))
    return chart


def series_style(index: int) -> dict[str, Any]:
    """Line and marker of a series."""
    colour, symbol, _ = palette(index)
    return {"line": {"color": colour, "width": 2}, "marker": {"color": colour, "symbol": symbol, "size": 8}}


def _baseline_style(index: int) -> dict[str, Any]:
    return {"line": {"color": NEUTRAL, "width": 1.75, "dash": BASELINE_DASHES[index % len(BASELINE_DASHES)]}}


def line(
    x: Sequence[float], values: Sequence[Statistic], name: str, style: dict[str, Any], mode: str = "lines+markers"
) -> dict[str, Any]:
    """A trace through means, with standard deviations as error bars where there are several runs."""
    trace = {"x": list(x), "y": [value.mean for value in values], "name": plain(name), "mode": mode, **style}
    if any(value.std is not None for value in values):
        spread = [value.std or 0.0 for value in values]
        trace["error_y"] = {
            "type": "data",
            "array": spread,
            "thickness": 1,
            "width": 3,
            "color": style["line"]["color"],
        }
    return trace


def _task_axis(total: int, title: str) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": title}, "range": [0.7, total + 0.3]}
    return {**axis, "tickmode": "linear", "tick0": 1, "dtick": max(1, total // 10)}


def _limits(stream: Stream) -> list[float] | None:
    """One vertical range for all tasks of a stream, so that their curves can be compared."""
    if stream.metric is None:
        return None
    cells = [
        v
        for _, run in stream.runs
        for i, row in enumerate(run["matrix"]["values"])
        for v in row[: i + 1]
        if v is not None
    ]
    if not cells:
        return None
    margin = 0.06 * (max(cells) - min(cells)) or 1.0
    return [min(cells) - margin, max(cells) + margin]


def thinned(points: Sequence[Any]) -> list[tuple[float, float]]:
    """Means over blocks of steps, at most LOSS_POINTS blocks; no block crosses from one task into the next."""
    size = max(1, math.ceil(len(points) / LOSS_POINTS))
    blocks: list[list[Any]] = []
    for point in points:
        if not blocks or len(blocks[-1]) == size or blocks[-1][-1]["task"] != point["task"]:
            blocks.append([])
        blocks[-1].append(point)
    return [(_mean(block, "step"), _mean(block, "loss")) for block in blocks]


def _mean(block: list[Any], key: str) -> float:
    return sum(point[key] for point in block) / len(block)


def plain(text: str) -> str:
    """Text for plotly, which reads a subset of HTML in its labels."""
    return html.escape(text, quote=False)


def chart_of(
    label: str, traces: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], height: int, **layout: Any
) -> Chart:
    """A figure in the style of the report: no legend (the page has one), transparent, titles as small as ticks."""
    import plotly.graph_objects as go
    import plotly.io

    axis = {"automargin": True, "zeroline": False, "fixedrange": True}
    layout |= {
        "template": go.layout.Template(),
        "xaxis": {**axis, **x, "title": {"font": {"size": 12}, "standoff": 8, **x["title"]}},
        "yaxis": {**axis, **y, "title": {"font": {"size": 12}, "standoff": 8, **y.get("title", {})}},
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "showlegend": False,
        "hovermode": "closest",
    }
    figure = go.Figure(data=traces, layout=layout)
    return Chart(label, plotly.io.to_json(figure, validate=False), height)
