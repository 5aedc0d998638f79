"""The tables of the page about joint runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtpeft.report.groups import Group, Results, Statistic
from mtpeft.report.joint_groups import JointRuns, main_value, multi_task_delta, task_delta
from mtpeft.report.markup import Cell, baseline_key, escape, key, table
from mtpeft.report.numbers import MISSING, count, measured, number, signed, statistic
from mtpeft.report.tables import parameter_cells, seed_list

REFERENCE = "Single-task training"
COUNTED = {
    "method": "Method's own",
    "norm_bias": "Norms and biases",
    "backbone": "Backbone",
    "head": "Head",
    "buffers": "Buffers",
}


def headline_table(runs: JointRuns) -> str:
    """One row per group: multi-task delta, weights, the main metric of each task; then the single-task values."""
    head = ["Method", "Seeds", "Multi-task delta [%]", "Trainable weights", "of the backbone", "Heads"]
    head += [f"{task['name']}: {measured(task)}" for task in runs.tasks]
    rows: list[list[Cell]] = []
    for index, group in enumerate(runs.groups):
        values = [statistic(main_value(group, task), task["unit"]) for task in runs.tasks]
        cells = [signed(multi_task_delta(group), "%"), *parameter_cells(group), *values]
        rows.append([key(index, group.label), seed_list(group.seeds), *cells])
    if runs.has_references and not runs.has_reference_runs:
        values = [statistic(runs.references[task["name"]], task["unit"]) for task in runs.tasks]
        rows.append([baseline_key(0, REFERENCE), "", "0", MISSING, MISSING, MISSING, *values])
    return table(f"{runs.title}: methods compared", head, rows, text_columns=2)


def delta_table(runs: JointRuns) -> str:
    """Change of each task against its single-task value: by task for one group, else one row per group."""
    if len(runs.groups) > 1:
        head = ["Method", *(f"{task['name']} [%]" for task in runs.tasks), "Multi-task delta [%]"]
        rows: list[list[Cell]] = [
            [
                key(index, group.label),
                *(signed(task_delta(group, task), "%") for task in runs.tasks),
                signed(multi_task_delta(group), "%"),
            ]
            for index, group in enumerate(runs.groups)
        ]
        return table(f"{runs.title}: change against single-task training", head, rows)
    [group] = runs.groups
    rows = [
        [
            task["name"],
            measured(task),
            statistic(main_value(group, task), task["unit"]),
            statistic(runs.references[task["name"]], task["unit"]),
            signed(task_delta(group, task), "%"),
        ]
        for task in runs.tasks
    ]
    rows.append(["Multi-task delta", "", "", "", signed(multi_task_delta(group), "%")])
    head = ["Task", "Metric", "Joint", "Single-task", "Change [%]"]
    return table(f"{runs.title}: change against single-task training", head, rows, text_columns=2)


def measures_table(runs: JointRuns) -> str:
    """Every metric of every task at the end, one column per group; the main metric of a task first."""
    rows: list[list[Cell]] = []
    for task in runs.tasks:
        found = [name for _, run in runs.runs for name in run["final"].get(task["name"], {})]
        names = sorted(dict.fromkeys(found), key=lambda name: name != task["metric"])
        for name in names:
            metric = _metric(task, name)
            cells = [statistic(_final(group, task["name"], name), metric["unit"]) for group in runs.groups]
            rows.append([f"{task['name']}: {measured(metric)}", *cells])
    head = ["Metric", *(key(index, group.label) for index, group in enumerate(runs.groups))]
    return table(f"{runs.title}: every metric at the end of training", head, rows)


def _metric(task: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Unit and direction of any metric of a task; those of kinds that a recipe brought along are not known here."""
    from mtpeft.dense.kinds import KINDS  # torch is loaded for pages about joint runs only

    known = KINDS.get(task["kind"]).metrics if task["kind"] in KINDS else {}
    if name == task["metric"] or name not in known:
        return {**task, "metric": name} if name == task["metric"] else {"metric": name, "unit": ""}
    return {"metric": name, "unit": known[name].unit, "higher_is_better": known[name].higher_is_better}


def _final(group: Group, task: str, metric: str) -> Statistic:
    return group.over(lambda run: run["final"].get(task, {}).get(metric))


def per_task_table(runs: JointRuns) -> str:
    """Trained weights that each task uses, heads not counted."""
    rows = [
        [key(index, group.label), *(count(_used(group, task["name"]).mean) for task in runs.tasks)]
        for index, group in enumerate(runs.groups)
    ]
    return table(f"{runs.title}: trained weights used by one task", ["Method", *_names(runs)], rows)


def _used(group: Group, task: str) -> Statistic:
    return group.over(lambda run: run["parameters"]["trainable_per_task"].get(task))


def counts_table(group: Group) -> str:
    """Trained weights of each task by kind, of the first run of a group."""
    run = group.runs[0]
    rows: list[list[Cell]] = [
        [task["name"], *(count(run["parameters"]["per_task"][task["name"]][kind]) for kind in COUNTED)]
        for task in run["tasks"]
    ]
    return table(f"{group.label}: weights of each task by kind", ["Task", *COUNTED.values()], rows)


def flops_table(runs: JointRuns) -> str:
    """Floating-point operations of one image, and the counting rule."""
    rows = []
    for index, group in enumerate(runs.groups):
        flops = group.runs[0]["flops"]
        parts = [flops["total"], flops["backbone"], sum(flops["heads"].values())]
        parts += [flops["per_task"].get(task["name"]) for task in runs.tasks]
        rows.append([key(index, group.label), *map(_millions, parts)])
    rules = dict.fromkeys(run["flops"]["rule"] for _, run in runs.runs)
    notes = "".join(f"<p class='note'>{escape(rule)}</p>" for rule in rules)
    head = ["Method", "All tasks", "Backbone with method", "Heads", *(f"{name} alone" for name in _names(runs))]
    return table(f"{runs.title}: floating-point operations of one image in millions", head, rows) + notes


def _millions(value: int | None) -> str:
    if value is None:
        return MISSING
    return f"{value / 1e6:,.1f}" if value >= 1e7 else f"{value / 1e6:.3g}"


def history_table(run: Results, title: str) -> str:
    """Every validation of a run, its best checkpoint marked."""
    tasks = run["tasks"]
    best = run["best"]["step"] if run["best"] else None
    rows: list[list[Cell]] = []
    for entry in run["history"]:
        values = [number(entry["values"].get(t["name"], {}).get(t["metric"]), t["unit"]) for t in tasks]
        mark = "best" if entry["step"] == best else ""
        rows.append([count(entry["step"]), *values, signed(Statistic(entry["delta"]), "%"), mark])
    head = ["Step", *(f"{task['name']}: {measured(task)}" for task in tasks), "Multi-task delta [%]", "Checkpoint"]
    return table(f"Validation of {title}", head, rows)


def best_table(runs: JointRuns) -> str:
    """The best checkpoint of each run, and how often it was evaluated."""
    rows: list[list[Cell]] = []
    for group, run in runs.runs:
        best = run["best"] or {}
        last = run["history"][-1]["step"] if run["history"] else None
        cells = [count(len(run["history"])), count(last), count(best.get("step"))]
        rows.append([f"{group.label}, seed {run['seed']}", *cells, signed(Statistic(best.get("delta")), "%")])
    head = ["Run", "Evaluations", "Last step", "Best step", "Best multi-task delta [%]"]
    return table(f"{runs.title}: best checkpoints", head, rows)


def conflict_table(label: str, tasks: Sequence[str], cosines: Sequence[Sequence[Statistic]]) -> str:
    """Cosines as numbers, for readers of the text."""
    rows = [[name, *(statistic(cell, "") for cell in row)] for name, row in zip(tasks, cosines, strict=True)]
    return table(label, ["", *tasks], rows)


def skipped_table(runs: JointRuns) -> str:
    """Labels that were left out because no pixel of them was valid; a sentence when there are none."""
    if not any(amount for _, run in runs.runs for amount in run["skipped"].values()):
        return ""
    rows = [
        [f"{group.label}, seed {run['seed']}", *(count(run["skipped"].get(task["name"])) for task in runs.tasks)]
        for group, run in runs.runs
    ]
    return table(f"{runs.title}: labels without a valid pixel", ["Run", *_names(runs)], rows)


def tasks_table(runs: JointRuns) -> str:
    """What each task is, and its loss weight in the recipe where it states one."""
    rows: list[list[Cell]] = []
    for task in runs.tasks:
        direction = "higher is better" if task["higher_is_better"] else "lower is better"
        settings = [_settings(run, task["name"]) for _, run in runs.runs]
        weights = dict.fromkeys(f"{s['weight']:g}" for s in settings if isinstance(s.get("weight"), (int, float)))
        heads = dict.fromkeys(_head(s) for s in settings if _head(s))
        cells = [task["kind"], f"{measured(task)}, {direction}", ", ".join(heads) or MISSING]
        sizes = [count(task["train_samples"]), count(task["val_samples"])]
        rows.append([task["name"], *cells, ", ".join(weights) or MISSING, *sizes])
    head = ["Task", "Kind", "Metric", "Head", "Loss weight", "Train samples", "Validation samples"]
    return table(f"{runs.title}: the tasks", head, rows, text_columns=4)


def _settings(run: Results, task: str) -> Mapping[str, Any]:
    found = run["recipe"].get("tasks", {})
    return found.get(task, {}) if isinstance(found, Mapping) else {}


def _head(settings: Mapping[str, Any]) -> str:
    head = settings.get("head", "")
    return head if isinstance(head, str) else str(head.get("name", ""))


def _names(runs: JointRuns) -> list[str]:
    return [task["name"] for task in runs.tasks]
