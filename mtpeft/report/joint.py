"""The page about runs that trained several dense tasks together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtpeft.evaluation.definitions import MANINIS
from mtpeft.report import charts, joint_charts, tables
from mtpeft.report import joint_tables as joint
from mtpeft.report.groups import Group, Results, Statistic
from mtpeft.report.joint_groups import JointRuns, joint_runs_of
from mtpeft.report.joint_pictures import picture_grids
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
from mtpeft.report.markup import baseline_key, escape
from mtpeft.report.memory import memory_card
from mtpeft.report.pictures import of_groups
from mtpeft.report.published import published_of_joint

CASES_ALONE, CASES_COMPARED = 4, 2  # cases of each kind on a page about one method, and about several
DEFINITIONS = (
    ("Change of a task", "d_j = 100 · s[j]·(m[j] − q[j]) / q[j]", MANINIS),
    ("Multi-task delta", "1/T · Σ_j d_j", MANINIS),
    (
        "Gradient cosine of two tasks",
        "g[i]·g[j] / (|g[i]|·|g[j]|), g[j] the gradient of the loss of task j in the weights that both tasks share",
        "Yu et al. 2020, Gradient Surgery for Multi-Task Learning (NeurIPS), definition 1",
    ),
)
NOTATION = (
    "T tasks trained together; m[j] the main metric of task j on the validation set; q[j] the same of a model trained on "
    "task j alone; s[j] = +1 when a higher metric is better on task j, else −1. Mean ± sample standard deviation (n − 1) "
    "over seeds."
)


def render_joint(results_list: Sequence[Results], folders: Sequence[Path] | None) -> str:
    """The page as text, one section per data set. `folders`: run folder of each result, None when not known.

    Raises `MtpeftError` for invalid results, a run given twice, or damaged pictures.
    """
    comparisons = joint_runs_of(results_list)
    places = {id(run): folder for run, folder in zip(results_list, folders or (), strict=folders is not None)}
    plots = Plots()
    body = [_comparison(runs, number, plots, places) for number, runs in enumerate(comparisons, 1)]
    terms = "".join(
        f'<dt>{escape(title)}</dt><dd><code>{escape(formula)}</code><br><span class="note">{escape(source)}</span></dd>'
        for title, formula, source in DEFINITIONS
    )
    body.append(section(*FORMULAS, card("", NOTATION, f'<dl class="formulas">{terms}</dl>')))
    return document(comparisons, "joint", body)


def _comparison(runs: JointRuns, number: int, plots: Plots, places: dict[int, Path]) -> str:
    """All cards about runs that can be compared."""
    skipped = joint.skipped_table(runs)
    cards = [
        card("Methods compared", _headline_note(runs), joint.headline_table(runs)),
        published_of_joint(runs),
        _delta(runs, plots),
        _curves(runs, plots),
        _weights(runs, plots),
        _pictures(runs, places),
        _conflict(runs, plots),
        card("Every metric", "Values on the validation set at the end of training.", joint.measures_table(runs)),
        _history(runs, plots),
        card("Tasks", "", joint.tasks_table(runs)),
        card("Skipped labels", _SKIPPED if skipped else "Every label that was used had valid pixels.", skipped),
        card("Recipes", RECIPE_NOTE, tables.differences_table(runs), recipes(runs)),
        card("Proof that the backbone is frozen", FROZEN_NOTE, tables.frozen_table(runs)),
        card("Input and environment", "", tables.environment_table(runs)),
    ]
    return section(f"joint-{number}", runs.title, *cards)


_SKIPPED = "A label without a single valid pixel gives no loss: it was left out and counted here."


def _headline_note(runs: JointRuns) -> str:
    spread = "Mean ± sample standard deviation (n − 1) over seeds." if runs.seeded else "One seed per method."
    return f"{spread} ↑ higher is better, ↓ lower is better. Trainable weights are without the heads."


def _delta(runs: JointRuns, plots: Plots) -> str:
    """Each task against its single-task value; says so where that value is missing."""
    note = "Positive is better than a model trained on the task alone, whatever the direction of its metric."
    found = [(group, runs.without_reference(group)) for group in runs.groups]
    texts = [f"{group.label} has no single-task value for {', '.join(names)}." for group, names in found if names]
    warning = f'<p class="warning">{"<br>".join(map(escape, [*texts, _MISSING]))}</p>' if texts else ""
    if not runs.has_references:
        return card("Against single-task training", "", warning)
    chart = joint_charts.trade_off_chart(runs)
    drawn = "" if chart is None else legend(runs) + plots.place(chart)
    return card("Against single-task training", note, warning, joint.delta_table(runs), drawn)


_MISSING = "Without it neither the change of the task nor a multi-task delta is defined."


def _curves(runs: JointRuns, plots: Plots) -> str:
    """Validation metric and training loss over the steps."""
    metrics = [titled(name, plots.place(chart)) for name, chart in joint_charts.metric_charts(runs)]
    losses = [titled(name, plots.place(chart)) for name, chart in joint_charts.loss_charts(runs)]
    single = [baseline_key(0, joint.REFERENCE)] if runs.has_references else []
    cards = []
    if metrics:
        note = "The main metric of each task on the validation set." + _BARS * runs.seeded
        cards.append(card("Validation, task by task", note, legend(runs, *single), grid(metrics, "small")))
    if losses:
        note = f"One line per run; at most {charts.LOSS_POINTS} block means of it are drawn."
        cards.append(card("Training loss, task by task", note, legend(runs), grid(losses, "small")))
    return "".join(cards)


_BARS = " Error bars are standard deviations over seeds."


def _weights(runs: JointRuns, plots: Plots) -> str:
    """Trained weights, and floating-point operations."""
    chart = charts.parameter_chart(runs, [tables.trainable(group) for group in runs.groups])
    note = "Trained weights of all tasks together, heads not counted."
    alone = len(runs.groups) == 1
    counts = [joint.counts_table(group) for group in runs.groups]
    by_task = counts[0] if alone else joint.per_task_table(runs)
    folded = zip(runs.groups, counts, strict=True) if not alone else ()
    by_task += "".join(details(f"{group.label}: each task by kind", found) for group, found in folded)
    numbers = tables.parameters_table(runs) + by_task
    flops = card("Floating-point operations", "Millions, for one image.", joint.flops_table(runs))
    return card("Trainable weights", note, plots.place(chart), numbers) + memory_card(runs) + flops


def _pictures(runs: JointRuns, places: dict[int, Path]) -> str:
    """Worst and best cases of the first seed of each group."""
    grids = of_groups(
        runs.groups,
        lambda run, alone: picture_grids(run, places.get(id(run)), CASES_ALONE if alone else CASES_COMPARED),
    )
    note = (
        "Validation samples with the highest and the lowest loss on each task, each with its own value of the metric."
    )
    note += " Of several seeds the first one given is shown." * runs.seeded
    return card("Pictures", note, grids)


def _conflict(runs: JointRuns, plots: Plots) -> str:
    """Cosines between the gradients of the tasks, the mean over the seeds of a group."""
    blocks = []
    for group in runs.groups:
        tasks, cosines = _cosines(group)
        if not tasks:
            blocks.append(titled(group.label, f'<p class="note">{escape(_why_no_conflict(group))}</p>'))
            continue
        label = f"gradient cosines between the tasks of {group.label}"
        drawn = plots.place(joint_charts.conflict_chart(label, tasks, cosines))
        numbers = details("Numbers", joint.conflict_table(label, tasks, cosines))
        blocks.append(titled(group.label, drawn + numbers))
    note = (
        "Cosine between the gradients of two tasks in the trained weights they share: below 0 (orange) an update for one raises "
        "the loss of the other, above 0 (blue) the tasks help each other."
    )
    return card("Gradient conflict between tasks", note, grid(blocks))


def _cosines(group: Group) -> tuple[list[str], list[list[Statistic]]]:
    """Task names and mean cosines of a group; empty when a run has none or has other tasks."""
    found = [run["gradient_conflict"] for run in group.runs]
    if any(entry is None or entry["tasks"] != found[0]["tasks"] for entry in found):
        return [], []
    total = range(len(found[0]["tasks"]))
    return found[0]["tasks"], [[Statistic.of([e["cosine"][i][j] for e in found]) for j in total] for i in total]


def _why_no_conflict(group: Group) -> str:
    if len(group.runs[0]["tasks"]) < 2:
        return "There is one task only, so no two gradients to compare."
    return "No cosines: no two tasks share a trained weight, or the recipe does not measure them."


def _history(runs: JointRuns, plots: Plots) -> str:
    """Every validation of every run, and the best checkpoints."""
    chart = joint_charts.delta_chart(runs)
    drawn = "" if chart is None else legend(runs, baseline_key(0, joint.REFERENCE)) + plots.place(chart)
    folded = "".join(
        details(title, joint.history_table(run, title))
        for title, run in ((f"{group.label}, seed {run['seed']}", run) for group, run in runs.runs)
    )
    note = "The best checkpoint is the one with the highest multi-task delta." + _MARKED * (chart is not None)
    return card("Validation history", note, drawn, joint.best_table(runs), folded)


_MARKED = " A large open marker shows it."
