"""The page about runs that learned their tasks one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtpeft.report import charts, confusion, tables
from mtpeft.report.clip_strips import clip_strips
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
from mtpeft.report.memory import memory_card
from mtpeft.report.pictures import of_groups, sentence
from mtpeft.report.published import published_of_stream

STRIPS_COMPARED = 2  # clips of each task on a page about several methods


def render_continual(results_list: Sequence[Results], folders: Sequence[Path] | None = None) -> str:
    """The page as text, one section per stream. `folders`: run folder of each result, None when not known.

    Raises `MtpeftError` for invalid results, a run given twice, or damaged pictures.
    """
    streams = streams_of(results_list)
    places = {id(run): folder for run, folder in zip(results_list, folders or (), strict=folders is not None)}
    plots = Plots()
    body = [_stream(stream, number, plots, places) for number, stream in enumerate(streams, 1)]
    body.append(section(*FORMULAS, card("", NOTATION, tables.formulas(streams))))
    return document(streams, "stream", body)


NOTATION = (
    "T tasks in the order of training; R[i, j] the metric on task j after training on task i; "
    "n[i, j] its test samples; b[j] the metric on task j of the untrained model; s[j] = +1 when a "
    "higher metric is better on task j, else −1."
)


def _stream(stream: Stream, number: int, plots: Plots, places: Mapping[int, Path]) -> str:
    """All sections about one stream."""
    cards = [
        card("Methods compared", _headline_note(stream), tables.headline_table(stream)),
        published_of_stream(stream),
        _accuracy(stream, plots),
        _seen(stream, plots),
        _forgetting(stream, plots),
        _matrices(stream, plots),
        _learning(stream, plots),
        _classes(stream, plots),
        _confusion(stream, plots),
        _clips(stream, places),
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
    note = f"Average over the tasks learned so far.{_BARS}" * stream.seeded
    if fixed:
        note += " The dashed baselines are averages over all tasks of the stream."
    baselines = [baseline_key(index, baseline.label) for index, baseline in enumerate(stream.baselines)]
    return card("Accuracy as tasks are added", note.strip(), legend(stream, *baselines), plots.place(chart))


def _seen(stream: Stream, plots: Plots) -> str:
    """Accuracy over all classes seen so far, and over the old ones; nothing where there is one class space per task."""
    parts = [titled(title, plots.place(chart)) for title, chart in charts.seen_charts(stream)]
    if not parts:
        return ""
    note = "Every test sample counts alike, however many its task has. The classes just learned are in the learning curves."
    return card("Accuracy over seen classes", note + _BARS * stream.seeded, legend(stream), grid(parts, "wide"))


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


def _classes(stream: Stream, plots: Plots) -> str:
    """Accuracy of every class at the end of the stream."""
    accuracies = confusion.class_accuracies(stream)
    if not accuracies:
        return ""
    note = "At the end of the stream." + _BARS * stream.seeded
    if len(accuracies) > confusion.NAMED:
        note += f" Drawn are the {confusion.NAMED} classes of {len(accuracies)} with the lowest accuracy."
    numbers = details("Numbers", confusion.accuracy_table(stream, accuracies))
    drawn = plots.place(confusion.accuracy_chart(stream, accuracies))
    return card("Accuracy of every class", note, legend(stream), drawn, numbers)


_BARS = " Error bars are standard deviations over seeds."


def _confusion(stream: Stream, plots: Plots) -> str:
    """One heat map per group."""
    if not any("confusion" in run for _, run in stream.runs):
        return ""
    maps, most = [], 0
    for group in stream.groups:
        counts = confusion.Counts.of(group.runs)
        if not all("confusion" in run for run in group.runs):
            maps.append(titled(group.label, sentence(_NO_COUNTS)))
            continue
        most = max(most, len(counts.classes))
        numbers = confusion.confusion_table(counts, group.label)
        if len(counts.classes) <= confusion.WRITTEN:
            numbers = details("Numbers", numbers)
        maps.append(titled(group.label, plots.place(confusion.confusion_chart(group, counts)) + numbers))
    note = "Test samples at the end of the stream: rows are true classes, columns predicted ones. "
    note += "Darker is a larger share of the true class."
    if stream.runs[0][1]["scenario"] == "task_incremental":
        note += " Blank: classes of other tasks, among which a sample is never looked for."
    note += " Tasks are added up." * (stream.runs[0][1]["scenario"] == "domain_incremental")
    note += " Seeds are added up." * stream.seeded
    return card("Confusion of classes", note, grid(maps, "maps" if most > 6 else ""))


_NO_COUNTS = "A run of this group was made by an earlier version, which did not keep the counts."


def _clips(stream: Stream, places: Mapping[int, Path]) -> str:
    """Strips of test clips of the first seed of each group."""
    if not any("pictures" in run for _, run in stream.runs):
        return ""
    content = of_groups(
        stream.groups, lambda run, alone: clip_strips(run, places.get(id(run)), None if alone else STRIPS_COMPARED)
    )
    note = "Test clips, the first of a class that was classified right and the first that was not; time runs from left to right."
    note += " Of several seeds the first one given is shown." * stream.seeded
    if 'class="shares"' in content:
        note += " Below the frames: their weights in the pooled features, darker is more."
    if 'class="attention"' in content:
        note += (
            " Squares: which frame (row) attends to which (column), mean over blocks, tokens and heads; darker is more."
        )
    return card("Clips", note, content)


def _parameters(stream: Stream, plots: Plots) -> str:
    """Trainable weights per method."""
    chart = charts.parameter_chart(stream, [tables.trainable(group) for group in stream.groups])
    note = "Trained weights of all tasks together, heads not counted."
    note += " Both baselines train none." if stream.baselines else ""
    weights = card("Trainable weights", note, plots.place(chart), tables.parameters_table(stream))
    return weights + memory_card(stream)


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
