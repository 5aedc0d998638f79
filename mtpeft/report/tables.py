"""The tables of the report as HTML. Every text is escaped; only `Raw` is taken as it is."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from mtpeft.evaluation.results import measures_of
from mtpeft.report.charts import NEUTRAL, palette
from mtpeft.report.groups import Group, Results, Statistic, Stream, differences
from mtpeft.report.numbers import MISSING, count, number, statistic, with_unit

HEADLINE = ["average_accuracy", "average_forgetting", "backward_transfer", "forward_transfer"]


class Raw(str):
    """HTML that is already safe."""


Cell = str | Raw


def escape(text: object) -> str:
    """Text as HTML, quotes included."""
    return text if isinstance(text, Raw) else html.escape(str(text))


def table(caption: str, head: Sequence[Cell], rows: Sequence[Sequence[Cell]], text_columns: int = 1) -> str:
    """A table that scrolls sideways inside its box; the first cell of a row heads it, numbers stand right."""
    columns = "".join(
        f'<th scope="col"{_align(index, text_columns)}>{escape(title)}</th>' for index, title in enumerate(head)
    )
    body = []
    for row in rows:
        first = f'<th scope="row">{escape(row[0])}</th>'
        rest = "".join(f"<td{_align(i, text_columns)}>{escape(cell)}</td>" for i, cell in enumerate(row[1:], start=1))
        body.append(f"<tr>{first}{rest}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _align(index: int, text_columns: int) -> str:
    return "" if index < text_columns else ' class="n"'


def key(index: int, label: str) -> Raw:
    """A group's label with its colour and marker in the charts."""
    colour, _, glyph = palette(index)
    return Raw(f'<span class="key" style="color:{colour}" aria-hidden="true">{glyph}</span> {escape(label)}')


def baseline_key(index: int, label: str) -> Raw:
    """A baseline's label with its dash in the charts."""
    dash = ("dashed", "dotted")[index % 2]
    return Raw(
        f'<span class="key dash" style="border-top:2px {dash} {NEUTRAL}" aria-hidden="true"></span> {escape(label)}'
    )


def headline_measures(stream: Stream) -> list[str]:
    """Measures of the headline table; a class-incremental stream also has the accuracy over all seen samples."""
    extra = ["sample_weighted_accuracy"] if stream.runs[0][1]["scenario"] == "class_incremental" else []
    return [HEADLINE[0], *extra, *HEADLINE[1:]]


def trainable(group: Group) -> Statistic:
    """Trained weights of a run, heads not counted."""
    return group.over(lambda run: run["parameters"]["method"] + run["parameters"]["norm_bias"])


def headline_table(stream: Stream) -> str:
    """One row per group and per baseline: mean ± standard deviation over seeds."""
    names = headline_measures(stream)
    known = measures_of(stream.runs[0][1])
    titles = [with_unit(known[name]["title"], known[name]["unit"]) for name in names]
    rows: list[list[Cell]] = []
    for index, group in enumerate(stream.groups):
        measures = [statistic(group.measure(name), known[name]["unit"]) for name in names]
        rows.append([key(index, group.label), _seeds(group.seeds), *measures, *_parameter_cells(group)])
    unit = known[names[0]]["unit"]
    for index, baseline in enumerate(stream.baselines):
        level = statistic(baseline.average, unit) if stream.metric else MISSING
        # The averages of a baseline are over tasks, not over samples, and it is not trained along the stream.
        others = [MISSING] * (len(names) - 1)
        seeds = _seeds(baseline.seeds) or "not measured"
        rows.append([baseline_key(index, baseline.label), seeds, level, *others, "0", "0 %", MISSING])
    head = ["Method", "Seeds", *titles, "Trainable weights", "of the backbone", "Heads"]
    return table(f"{stream.title}: methods compared", head, rows, text_columns=2)


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _parameters(group: Group, kind: str) -> float | None:
    return group.over(lambda run: run["parameters"][kind]).mean


def _parameter_cells(group: Group) -> list[str]:
    mean = trainable(group).mean
    backbone = group.runs[0]["parameters"]["backbone"]
    share = MISSING if mean is None or not backbone else f"{100 * mean / backbone:.2f} %"
    return [count(mean), share, count(_parameters(group, "head"))]


def runs_table(stream: Stream) -> str:
    """Every run with its seed and every scalar measure, then the reasons of the undefined ones."""
    scalars = [
        m for m in stream.runs[0][1]["measures"] if not isinstance(m["value"], list) and "curve" not in m["name"]
    ]
    scalars = [m for m in scalars if m["name"] != "forgetting_per_task"]
    head = ["Run", "Seed", *(with_unit(m["title"], m["unit"]) for m in scalars)]
    rows, reasons = [], {}
    for group, run in stream.runs:
        measures = measures_of(run)
        values = [measures.get(m["name"], {"value": None, "unit": ""}) for m in scalars]
        rows.append([group.label, str(run["seed"]), *(number(v["value"], v["unit"]) for v in values)])
        reasons.update({m["title"]: m["reason"] for m in values if m.get("reason")})
    notes = "".join(f"<li>{escape(title)}: {escape(reason)}.</li>" for title, reason in reasons.items())
    undefined = f'<p class="note">{MISSING} is undefined:</p><ul class="note">{notes}</ul>' if notes else ""
    return table(f"{stream.title}: every run", head, rows) + undefined


def tasks_table(stream: Stream) -> str:
    """What each task is, and its values that are not in the matrix: the untrained model and the baselines."""
    run = stream.runs[0][1]
    unit = stream.metric["unit"] if stream.metric else ""
    head = [
        "Task",
        "Metric",
        "Classes",
        "Train samples",
        "Test samples",
        "Untrained",
        *(b.label for b in stream.baselines),
    ]
    rows = []
    for j, task in enumerate(run["tasks"]):
        direction = "higher is better" if task["higher_is_better"] else "lower is better"
        untrained = Statistic.of([other["reference"]["random_init"][j] for _, other in stream.runs])
        levels = [Statistic.of([values[j] for values in baseline.values]) for baseline in stream.baselines]
        rows.append(
            [
                f"{j + 1}. {task['name']}",
                f"{with_unit(task['metric'], task['unit'])}, {direction}",
                ", ".join(map(str, task["classes"])) or MISSING,
                count(task["train_samples"]),
                count(task["test_samples"]),
                *(statistic(level, task["unit"] or unit) for level in (untrained, *levels)),
            ]
        )
    return table(f"{stream.title}: the tasks in the order of training", head, rows, text_columns=3)


def matrix_table(run: Results, title: str) -> str:
    """R as numbers, for readers of the text."""
    names = [task["name"] for task in run["tasks"]]
    units = [task["unit"] for task in run["tasks"]]
    rows = [
        [f"after {name}", *(number(value, unit) for value, unit in zip(row, units, strict=True))]
        for name, row in zip(names, run["matrix"]["values"], strict=True)
    ]
    return table(f"Accuracy matrix of {title}", ["", *map(with_unit, names, units)], rows)


def forgetting_table(stream: Stream) -> str:
    """Forgetting of each task at the end of the stream, per group."""
    head = ["Method", *(f"{j + 1}. {task['name']}" for j, task in enumerate(stream.tasks[:-1]))]
    rows = []
    for index, group in enumerate(stream.groups):
        per_task = group.curve("forgetting_per_task")[: len(stream.tasks) - 1]
        units = ["points" if task["unit"] == "%" else task["unit"] for task in stream.tasks]
        cells = [statistic(value, unit) for value, unit in zip(per_task, units, strict=False)]
        rows.append([key(index, group.label), *cells])
    return table(f"{stream.title}: forgetting of each task at the end", head, rows)


def parameters_table(stream: Stream) -> str:
    """Numbers of weights by kind, and per task."""
    kinds = {
        "method": "Method",
        "norm_bias": "Norms and biases",
        "head": "Heads",
        "buffers": "Buffers",
        "backbone": "Backbone",
    }
    rows = []
    for index, group in enumerate(stream.groups):
        cells = [count(_parameters(group, kind)) for kind in kinds]
        per_task = sorted(set(group.runs[0]["parameters"]["trainable_per_task"].values()))
        rows.append(
            [
                key(index, group.label),
                *cells,
                " to ".join(count(v) for v in dict.fromkeys(per_task[:1] + per_task[-1:])),
            ]
        )
    rules = "".join(
        f"<p class='note'>{escape(r)}</p>" for r in dict.fromkeys(run["parameters"]["rule"] for _, run in stream.runs)
    )
    return table(f"{stream.title}: weights by kind", ["Method", *kinds.values(), "Used by one task"], rows) + rules


def differences_table(stream: Stream) -> str:
    """Recipe keys in which the groups differ; empty for one group."""
    rows = [[name, *map(_recipe_value, row)] for name, row in differences(stream.groups).items()]
    if not rows:
        return ""
    head = ["Recipe key", *(key(index, group.label) for index, group in enumerate(stream.groups))]
    return table(f"{stream.title}: what differs between the recipes", head, rows, text_columns=len(head))


def _recipe_value(value: Any) -> str:
    return MISSING if value is ... else json.dumps(value, sort_keys=True, ensure_ascii=False)


def frozen_table(stream: Stream) -> str:
    """The hash of the backbone before and after each run."""
    rows = [
        [
            f"{group.label}, seed {run['seed']}",
            "unchanged" if run["frozen"]["unchanged"] else "changed: this run trained the backbone itself",
            *(
                Raw(f"<code>{escape(run['frozen'][when])}</code>")
                for when in ("fingerprint_before", "fingerprint_after")
            ),
        ]
        for group, run in stream.runs
    ]
    return table(
        f"{stream.title}: SHA-256 of the backbone", ["Run", "Backbone", "Before", "After"], rows, text_columns=4
    )


def environment_table(stream: Stream) -> str:
    """Versions, and what the images are turned into."""
    rows = []
    for group, run in stream.runs:
        size = run["input"]["size"]
        channels = [", ".join(f"{v:g}" for v in run["input"][name]) for name in ("mean", "std")]
        cells = [run["backbone"]["name"], str(size), *channels, run["input"]["interpolation"]]
        rows.append([f"{group.label}, seed {run['seed']}", *cells, *map(str, run["environment"].values())])
    inputs = ["Backbone", "Image size [px]", "Mean", "Std", "Interpolation"]
    head = ["Run", *inputs, *(name.capitalize() for name in stream.runs[0][1]["environment"])]
    return table(f"{stream.title}: input and environment", head, rows, text_columns=len(head))


def formulas(streams: Sequence[Stream]) -> str:
    """Formula and source of every measure in the report, once."""
    seen = {measure["name"]: measure for stream in streams for _, run in stream.runs for measure in run["measures"]}
    items = "".join(
        f"<dt>{escape(m['title'])}</dt><dd><code>{escape(m['formula'])}</code><br>"
        f'<span class="note">{escape(m["source"])}</span></dd>'
        for m in seen.values()
    )
    return f'<dl class="formulas">{items}</dl>'
