"""The tables of the page about continual runs, and those that any run has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mtpeft.evaluation.results import measures_of
from mtpeft.report.groups import Baseline, Comparison, Group, Results, Statistic, Stream, differences
from mtpeft.report.markup import Cell, Raw, baseline_key, escape, key, table
from mtpeft.report.numbers import MISSING, count, measured, number, statistic, with_unit

HEADLINE = ["average_accuracy", "average_forgetting", "backward_transfer", "forward_transfer"]
RELATIVE = ["average_relative_forgetting", "multi_task_delta"]


def headline_measures(stream: Stream) -> list[str]:
    """Measures of the headline table: relative ones where tasks are measured differently, so that no mean exists.

    A class-incremental stream also has the accuracy over all seen samples.
    """
    if stream.metric is None:
        return [name for name in RELATIVE if any(group.measure(name).mean is not None for group in stream.groups)]
    extra = ["sample_weighted_accuracy"] if stream.runs[0][1]["scenario"] == "class_incremental" else []
    return [HEADLINE[0], *extra, *HEADLINE[1:]]


def known_measures(stream: Stream) -> dict[str, Any]:
    """Every measure that any run has, by name; titles and units are the same in all of them."""
    return {name: measure for _, run in stream.runs for name, measure in measures_of(run).items()}


def final_columns(stream: Stream) -> list[str]:
    """Titles of columns for the last row of R: one per task where tasks are measured differently, else none."""
    return [] if stream.metric else [f"{task['name']}: {measured(task)}" for task in stream.tasks]


def final_cells(stream: Stream, group: Group) -> list[str]:
    """Cells for `final_columns`: each task at the end of the stream."""
    if stream.metric:
        return []
    last = len(stream.tasks) - 1
    return [statistic(group.cell(last, j), task["unit"]) for j, task in enumerate(stream.tasks)]


def baseline_cells(stream: Stream, baseline: Baseline, measures: Sequence[str]) -> list[str]:
    """Cells of a baseline for `final_columns` and `measures`: it has levels only, as it learns nothing in turn."""
    others = [MISSING] * len(measures)
    if stream.metric:
        return [statistic(baseline.average, stream.metric["unit"]), *others[1:]]
    levels = [Statistic.of([values[j] for values in baseline.values]) for j in range(len(stream.tasks))]
    return [*(statistic(v, task["unit"]) for v, task in zip(levels, stream.tasks, strict=True)), *others]


def trainable(group: Group) -> Statistic:
    """Trained weights of a run, heads not counted."""
    return group.over(lambda run: run["parameters"]["method"] + run["parameters"]["norm_bias"])


def headline_table(stream: Stream) -> str:
    """One row per group and per baseline: mean ± standard deviation over seeds."""
    names = headline_measures(stream)
    known = known_measures(stream)
    titles = final_columns(stream) + [with_unit(known[name]["title"], known[name]["unit"]) for name in names]
    rows: list[list[Cell]] = []
    for index, group in enumerate(stream.groups):
        measures = [statistic(group.measure(name), known[name]["unit"]) for name in names]
        cells = [*final_cells(stream, group), *measures, *parameter_cells(group)]
        rows.append([key(index, group.label), seed_list(group.seeds), *cells])
    for index, baseline in enumerate(stream.baselines):
        # The averages of a baseline are over tasks, not over samples, and it is not trained along the stream.
        seeds = seed_list(baseline.seeds) or "not measured"
        levels = baseline_cells(stream, baseline, names)
        rows.append([baseline_key(index, baseline.label), seeds, *levels, "0", "0 %", MISSING])
    head = ["Method", "Seeds", *titles, "Trainable weights", "of the backbone", "Heads"]
    return table(f"{stream.title}: methods compared", head, rows, text_columns=2)


def seed_list(seeds: Sequence[int]) -> str:
    """Seeds in one cell."""
    return ", ".join(map(str, seeds))


def _parameters(group: Group, kind: str) -> float | None:
    return group.over(lambda run: run["parameters"][kind]).mean


def parameter_cells(group: Group) -> list[str]:
    """Trained weights without heads, their share of the backbone, and the weights of the heads."""
    mean = trainable(group).mean
    backbone = group.runs[0]["parameters"]["backbone"]
    share = MISSING if mean is None or not backbone else f"{100 * mean / backbone:.2f} %"
    return [count(mean), share, count(_parameters(group, "head"))]


def runs_table(stream: Stream) -> str:
    """Every run with its seed and every scalar measure, then the reasons of the undefined ones."""
    scalars = [
        m for m in stream.runs[0][1]["measures"] if not isinstance(m["value"], list) and "curve" not in m["name"]
    ]
    scalars = [m for m in scalars if not m["name"].endswith("_per_task")]
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


def forgetting_tables(stream: Stream) -> str:
    """Forgetting of each task at the end of the stream, per group: in its own metric, and relative to its value."""
    tasks = stream.tasks[:-1]
    units = ["points" if task["unit"] == "%" else task["unit"] for task in tasks]
    titles = [f"{j + 1}. {task['name']}" for j, task in enumerate(tasks)]
    if stream.metric is None:
        heads = [
            with_unit(f"{title}: {task['metric']}", u) for title, task, u in zip(titles, tasks, units, strict=True)
        ]
    else:
        heads = [with_unit(title, unit) for title, unit in zip(titles, units, strict=True)]
    caption = f"{stream.title}: forgetting of each task at the end"
    absolute = _per_task(stream, "forgetting_per_task", caption, heads, units)
    percent = ["%"] * len(tasks)
    heads = [with_unit(title, "%") for title in titles]
    caption = f"{stream.title}: forgetting of each task at the end, in percent of its value when it was learned"
    return absolute + _per_task(stream, "relative_forgetting_per_task", caption, heads, percent)


def _per_task(stream: Stream, measure: str, caption: str, heads: list[str], units: list[str]) -> str:
    curves = [group.curve(measure) for group in stream.groups]
    if not any(curves):
        return ""
    rows = []
    for index, (group, values) in enumerate(zip(stream.groups, curves, strict=True)):
        cells = [statistic(value, unit) for value, unit in zip(values, units, strict=False)]
        rows.append([key(index, group.label), *(cells or [MISSING] * len(units))])
    return table(caption, ["Method", *heads], rows)


def parameters_table(stream: Comparison) -> str:
    """Numbers of weights by kind, and per task."""
    kinds = {
        "method": "Method's own",
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


def differences_table(stream: Comparison) -> str:
    """Recipe keys in which the groups differ; empty for one group."""
    rows = [[name, *map(_recipe_value, row)] for name, row in differences(stream.groups).items()]
    if not rows:
        return ""
    head = ["Recipe key", *(key(index, group.label) for index, group in enumerate(stream.groups))]
    return table(f"{stream.title}: what differs between the recipes", head, rows, text_columns=len(head))


def _recipe_value(value: Any) -> str:
    return MISSING if value is ... else json.dumps(value, sort_keys=True, ensure_ascii=False)


def frozen_table(stream: Comparison) -> str:
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


def environment_table(stream: Comparison) -> str:
    """Versions, and what images are turned into, in training and in test, and what read them, and what a feature cache kept."""
    rows = []
    cached = any("feature_cache" in run for _, run in stream.runs)
    clips = any("video" in run["input"] for _, run in stream.runs)
    machine = list(dict.fromkeys(name for _, run in stream.runs for name in run["environment"]))
    images = any("images" in run["input"] for _, run in stream.runs)
    for group, run in stream.runs:
        video = run["input"].get("video", {})
        readers = "; ".join(f"{reader}: {files}" for reader, files in video.get("readers", {}).items())
        shown = {**video, "readers": readers or video.get("decoder", MISSING)}
        read = [str(shown.get(name, MISSING)) for name in ("readers", "sampling", "frames", "skipped")] if clips else []
        if images:
            read += [run["input"].get("images", {}).get(name, MISSING) for name in ("train", "test", "decoder")]
        size = run["input"]["size"]
        channels = [", ".join(f"{v:g}" for v in run["input"][name]) for name in ("mean", "std")]
        kept = [_kept(run.get("feature_cache"))] if cached else []
        cells = [run["backbone"]["name"], str(size), *channels, run["input"]["interpolation"], *read, *kept]
        rows.append(
            [
                f"{group.label}, seed {run['seed']}",
                *cells,
                *(str(run["environment"].get(name, MISSING)) for name in machine),
            ]
        )
    inputs = [
        "Backbone",
        "Image size [px]",
        "Mean",
        "Std",
        "Interpolation",
        *(["Decoder: files", "Sampling", "Frames", "Unreadable files"] if clips else []),
        *(["Training images", "Test images", "Pictures read by"] if images else []),
        *(["Feature cache"] if cached else []),
    ]
    head = ["Run", *inputs, *(name.capitalize() for name in machine)]
    return table(f"{stream.title}: input and environment", head, rows, text_columns=len(head))


def _kept(cache: Mapping[str, Any] | None) -> str:
    """What a run kept of its images, in words."""
    if cache is None:
        return MISSING
    return f"{cache['features']}: {cache['images']:,} images of {cache['row_bytes']:,} bytes"


def formulas(streams: Sequence[Stream]) -> str:
    """Formula and source of every measure in the report, once."""
    seen = {measure["name"]: measure for stream in streams for _, run in stream.runs for measure in run["measures"]}
    items = "".join(
        f"<dt>{escape(m['title'])}</dt><dd><code>{escape(m['formula'])}</code><br>"
        f'<span class="note">{escape(m["source"])}</span></dd>'
        for m in seen.values()
    )
    return f'<dl class="formulas">{items}</dl>'
