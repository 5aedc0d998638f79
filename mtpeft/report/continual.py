"""The page about runs that learned their tasks one after another."""

from __future__ import annotations

from collections.abc import Sequence

from mtpeft.report import charts, tables
from mtpeft.report.groups import Results, Stream, streams_of
from mtpeft.report.heatmap import matrix_chart
from mtpeft.report.layout import (
    FORMULAS,
    FROZEN_NOTE,
    RECIPE_NOTE,
    Plots,
    card,
    details,
    document,
    grid,
    legend,
    recipes,
    section,
    titled,
)
from mtpeft.report.markup import baseline_key


def render_continual(results_list: Sequence[Results]) -> str:
    """The page as text, one section per stream. Raises `MtpeftError` for invalid results or a run given twice."""
    streams = streams_of(results_list)
    plots = Plots()
    body = [_stream(stream, number, plots) for number, stream in enumerate(streams, 1)]
    body.append(section(*FORMULAS, card("", NOTATION, tables.formulas(streams))))
    return document(streams, "stream", body)


NOTATION = (
    "T tasks in the order of training; R[i, j] the metric on task j after training on task i; "
    "n[i, j] its test samples; b[j] the metric on task j of the untrained model; s[j] = +1 when a "
    "higher metric is better on task j, else −1."
)


def _stream(stream: Stream, number: int, plots: Plots) -> str:
    """All sections about one stream."""
    cards = [
        card("Methods compared", _headline_note(stream), tables.headline_table(stream)),
        _accuracy(stream, plots),
        _forgetting(stream, plots),
        _matrices(stream, plots),
        _learning(stream, plots),
        _parameters(stream, plots),
        card("Tasks", "", tables.tasks_table(stream)),
        card("Every run", "", tables.runs_table(stream)),
        card("Recipes", RECIPE_NOTE, tables.differences_table(stream), recipes(stream)),
        card("Proof that the backbone is frozen", FROZEN_NOTE, tables.frozen_table(stream)),
        card("Input and environment", "", tables.environment_table(stream)),
    ]
    return section(f"stream-{number}", stream.title, *cards)


def _accuracy(stream: Stream, plots: Plots) -> str:
    """Average accuracy against tasks."""
    chart = charts.accuracy_chart(stream)
    if chart is None:
        return ""
    fixed = [b.label for b in stream.baselines if b.seeds and not b.curve]
    note = "Average over the tasks learned so far. Error bars are standard deviations over seeds." * stream.seeded
    if fixed:
        note += " The dashed baselines are averages over all tasks of the stream."
    baselines = [baseline_key(index, baseline.label) for index, baseline in enumerate(stream.baselines)]
    return card("Accuracy as tasks are added", note.strip(), legend(stream, *baselines), plots.place(chart))


def _forgetting(stream: Stream, plots: Plots) -> str:
    """One small chart per task."""
    if len(stream.tasks) < 2:
        return ""
    items = [
        titled(f"{j}. {name}", plots.place(chart))
        for j, (name, chart) in enumerate(charts.forgetting_charts(stream), 1)
    ]
    note = "Each task from the moment it was learned. The last task has no curve: nothing is learned after it."
    numbers = tables.forgetting_tables(stream)
    return card("Forgetting, task by task", note, legend(stream), grid(items, "small"), numbers)


def _matrices(stream: Stream, plots: Plots) -> str:
    """One heat map per run."""
    maps = []
    for group, run in stream.runs:
        title = f"{group.label}, seed {run['seed']}"
        numbers = details("Numbers", tables.matrix_table(run, title))
        maps.append(titled(title, plots.place(matrix_chart(stream, group, run)) + numbers))
    note = "Row i, column j: the metric on task j after training on task i. Darker is better"
    note += "." if stream.metric else ", in each column on a scale of its own: the tasks are measured differently."
    return card("Accuracy matrices" if stream.metric else "Matrices of the metrics", note, grid(maps))


def _learning(stream: Stream, plots: Plots) -> str:
    """How well each task was learned, and the training loss."""
    parts = [
        titled(title, plots.place(chart))
        for title, chart in (
            ("Each task right after it was learned", charts.learning_chart(stream)),
            ("Training loss", charts.loss_chart(stream)),
        )
        if chart is not None
    ]
    if not parts:
        return ""
    note = f"Of the loss at most {charts.LOSS_POINTS} block means per run are drawn."
    return card("Learning curves", note, legend(stream), grid(parts, "wide"))


def _parameters(stream: Stream, plots: Plots) -> str:
    """Trainable weights per method."""
    chart = charts.parameter_chart(stream, [tables.trainable(group) for group in stream.groups])
    note = "Trained weights of all tasks together, heads not counted."
    note += " Both baselines train none." if stream.baselines else ""
    return card("Trainable weights", note, plots.place(chart), tables.parameters_table(stream))


def _headline_note(stream: Stream) -> str:
    spread = "Mean ± sample standard deviation (n − 1) over seeds. " if stream.seeded else "One seed per method. "
    text = spread + "Positive forgetting means a task got worse, positive transfer that it got better."
    if stream.metric is None:
        text += (
            " The tasks are measured differently, so each has a column with its value at the end of the stream "
            "(↑ higher is better, ↓ lower is better), and averages over tasks are relative."
        )
    if not stream.baselines:
        text += " The frozen baselines (linear probe, nearest class mean) classify images, so dense tasks have none."
    return text
