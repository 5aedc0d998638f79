"""The HTML page: its frame, its sections, and the plotly library inlined once, so that it opens without a network."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mtpeft.files import write_atomic
from mtpeft.report import charts, tables
from mtpeft.report.charts import Chart
from mtpeft.report.groups import Results, Stream, streams_of
from mtpeft.report.heatmap import matrix_chart
from mtpeft.report.tables import escape

# The browser itself refuses any load from elsewhere, so "self-contained" is not only a promise.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_report(results_list: Sequence[Results], path: str | os.PathLike[str]) -> Path:
    """Write one page about one run or several side by side; the same results give the same bytes.

    Runs that differ only in the seed are shown as mean ± standard deviation; streams with other tasks get a section of
    their own. Raises `MtpeftError` for invalid results, a run given twice, or a path that cannot be written.
    """
    target = Path(path)
    write_atomic(target, render(results_list))
    return target


def render(results_list: Sequence[Results]) -> str:
    """The page as text. Raises like `write_report`."""
    import plotly.offline

    streams = streams_of(results_list)
    builder = _Builder()
    body = [builder.stream(stream, number) for number, stream in enumerate(streams, 1)]
    body.append(_section("formulas", "How each number is computed", _card("", _notation(), tables.formulas(streams))))
    title = _title(streams)
    folder = Path(__file__).parent
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = (folder / "script.js").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>"
    )
    main = "\n".join([_header(title, streams), "<main>", *body, "</main>"])
    scripts = f"<script>{plotly.offline.get_plotlyjs()}</script>\n<script>\n{script}</script>"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{main}\n{scripts}\n</body>\n</html>\n'


class _Builder:
    """Counts the charts, so that each has an id that is the same in every build."""

    def __init__(self) -> None:
        self.plots = 0

    def plot(self, chart: Chart) -> str:
        """A place for a chart and its data; script.js draws it."""
        self.plots += 1
        # In a script element only "<" could end the element; the rest of JSON needs no escape.
        data = chart.json.replace("<", "\\u003c")
        return (
            f'<div class="plot" id="plot-{self.plots}" role="img" aria-label="{escape(chart.label)}"'
            f' style="height:{chart.height}px"></div>'
            f'<script type="application/json" data-plot="plot-{self.plots}">{data}</script>'
        )

    def stream(self, stream: Stream, number: int) -> str:
        """All sections about one stream."""
        cards = [
            _card("Methods compared", _headline_note(stream), tables.headline_table(stream)),
            self.accuracy(stream),
            self.forgetting(stream),
            self.matrices(stream),
            self.learning(stream),
            self.parameters(stream),
            _card("Tasks", "", tables.tasks_table(stream)),
            _card("Every run", "", tables.runs_table(stream)),
            _card("Recipes", _RECIPE_NOTE, tables.differences_table(stream), _recipes(stream)),
            _card("Proof that the backbone is frozen", _FROZEN_NOTE, tables.frozen_table(stream)),
            _card("Input and environment", "", tables.environment_table(stream)),
        ]
        return _section(f"stream-{number}", stream.title, *cards)

    def accuracy(self, stream: Stream) -> str:
        """Average accuracy against tasks."""
        chart = charts.accuracy_chart(stream)
        if chart is None:
            return ""
        fixed = [b.label for b in stream.baselines if b.seeds and not b.curve]
        note = "Average over the tasks learned so far. Error bars are standard deviations over seeds." * (
            _seeded(stream)
        )
        if fixed:
            note += " The dashed baselines are averages over all tasks of the stream."
        return _card("Accuracy as tasks are added", note.strip(), _legend(stream, baselines=True), self.plot(chart))

    def forgetting(self, stream: Stream) -> str:
        """One small chart per task."""
        if len(stream.tasks) < 2:
            return ""
        plots = [
            f"<div><h4>{j}. {escape(name)}</h4>{self.plot(chart)}</div>"
            for j, (name, chart) in enumerate(charts.forgetting_charts(stream), 1)
        ]
        note = "Each task from the moment it was learned. The last task has no curve: nothing is learned after it."
        grid = f'<div class="grid small">{"".join(plots)}</div>'
        return _card("Forgetting, task by task", note, _legend(stream), grid, tables.forgetting_table(stream))

    def matrices(self, stream: Stream) -> str:
        """One heat map per run."""
        maps = []
        for group, run in stream.runs:
            title = f"{group.label}, seed {run['seed']}"
            numbers = _details("Numbers", tables.matrix_table(run, title))
            maps.append(f"<div><h4>{escape(title)}</h4>{self.plot(matrix_chart(stream, group, run))}{numbers}</div>")
        note = "Row i, column j: the metric on task j after training on task i. Darker is better."
        return _card("Accuracy matrices", note, f'<div class="grid">{"".join(maps)}</div>')

    def learning(self, stream: Stream) -> str:
        """How well each task was learned, and the training loss."""
        parts = []
        for title, chart in (
            ("Each task right after it was learned", charts.learning_chart(stream)),
            ("Training loss", charts.loss_chart(stream)),
        ):
            if chart is not None:
                parts.append(f"<div><h4>{title}</h4>{self.plot(chart)}</div>")
        if not parts:
            return ""
        note = f"Of the loss at most {charts.LOSS_POINTS} block means per run are drawn."
        return _card("Learning curves", note, _legend(stream), f'<div class="grid wide">{"".join(parts)}</div>')

    def parameters(self, stream: Stream) -> str:
        """Trainable weights per method."""
        chart = charts.parameter_chart(stream, [tables.trainable(group) for group in stream.groups])
        note = "Trained weights of all tasks together, heads not counted. Both baselines train none."
        return _card("Trainable weights", note, self.plot(chart), tables.parameters_table(stream))


_RECIPE_NOTE = "The full resolved recipe of every run, input normalisation included."
_FROZEN_NOTE = "The hash of all backbone weights, taken before the first task and after the last one."


def _title(streams: Sequence[Stream]) -> str:
    labels = list(dict.fromkeys(group.label for stream in streams for group in stream.groups))
    return f"mtpeft: {' · '.join(labels) if len(labels) <= 3 else f'{len(labels)} methods compared'}"


def _header(title: str, streams: Sequence[Stream]) -> str:
    runs = sum(len(stream.runs) for stream in streams)
    groups = sum(len(stream.groups) for stream in streams)
    backbones = sorted({run["backbone"]["name"] for stream in streams for _, run in stream.runs})
    lead = f"{_plural(groups, 'method')}, {_plural(runs, 'run')}, on {' and '.join(backbones)}."
    links = [(f"stream-{number}", stream.title) for number, stream in enumerate(streams, 1)]
    links.append(("formulas", "How each number is computed"))
    items = "".join(f'<li><a href="#{target}">{escape(text)}</a></li>' for target, text in links)
    noscript = "<noscript><p>The charts need JavaScript; all their numbers are in the tables.</p></noscript>"
    return (
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
        f'<nav aria-label="Sections"><ul>{items}</ul></nav>{noscript}</header>'
    )


def _plural(amount: int, noun: str) -> str:
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def _seeded(stream: Stream) -> bool:
    return any(len(group.runs) > 1 for group in stream.groups)


def _headline_note(stream: Stream) -> str:
    spread = "Mean ± sample standard deviation (n − 1) over seeds. " if _seeded(stream) else "One seed per method. "
    return spread + "Positive forgetting means a task got worse, positive transfer that it got better."


def _notation() -> str:
    return (
        "T tasks in the order of training; R[i, j] the metric on task j after training on task i; "
        "n[i, j] its test samples; b[j] the metric on task j of the untrained model; s[j] = +1 when a "
        "higher metric is better on task j, else −1."
    )


def _legend(stream: Stream, baselines: bool = False) -> str:
    items = [tables.key(index, group.label) for index, group in enumerate(stream.groups)]
    if baselines:
        items += [tables.baseline_key(index, baseline.label) for index, baseline in enumerate(stream.baselines)]
    return '<ul class="legend">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _recipes(stream: Stream) -> str:
    return "".join(_details(f"{group.label}, seed {run['seed']}", _recipe(run)) for group, run in stream.runs)


def _recipe(run: Results) -> str:
    resolved = {"recipe": run["recipe"], "input": run["input"]}
    return f"<pre>{escape(json.dumps(resolved, indent=2, sort_keys=True, ensure_ascii=False))}</pre>"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _card(title: str, note: str, *content: str) -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    text = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section class="card">{heading}{text}{"".join(content)}</section>'


def _section(name: str, title: str, *cards: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{"".join(cards)}</section>'
