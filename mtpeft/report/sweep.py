"""What a sweep gave: one page, and a table for the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtpeft.files import write_atomic
from mtpeft.report.charts import Chart, chart_of, palette, plain
from mtpeft.report.groups import plural
from mtpeft.report.layout import FORMULAS, Plots, card, details, page, section
from mtpeft.report.markup import Cell, escape, key, table
from mtpeft.report.numbers import number, statistic
from mtpeft.report.sweep_rows import Row, Sweep

if TYPE_CHECKING:
    from rich.console import Console

WEIGHTS = "trained weights"


def write_sweep_report(content: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page of a sweep; the same sweep.json gives the same bytes. Raises `MtpeftError` where it cannot."""
    target = Path(path)
    write_atomic(target, render_sweep(content))
    return target


def render_sweep(content: Mapping[str, Any]) -> str:
    """The page as text."""
    sweep, plots = Sweep.of(content), Plots()
    runs = sum(len(row.test) + len(row.validation) for row in sweep.rows)
    lead = f"{plural(len(sweep.rows), 'setting')} of {plural(len(sweep.methods), 'method')}, {plural(runs, 'run')}."
    cards = [
        _failed(sweep),
        card("Best setting of each method", _best_note(sweep), _best_table(sweep)),
        _scatter(sweep, plots),
        card("Settings on the test part", _DEVIATION, _settings_table(sweep, "test")),
        _validation(sweep),
        _orders(sweep),
        card("Every run", "", _runs_table(sweep)),
        card("Recipe", "What all settings share; each run's own is in its folder.", _recipe(content)),
    ]
    title = f"mtpeft: sweep of {content['name']}"
    body = [section("sweep", "Settings compared", *cards), section(*FORMULAS, card("", "", _formulas(sweep)))]
    return page(title, lead, [("sweep", "Settings compared"), FORMULAS], body)


def print_sweep(content: Mapping[str, Any], console: Console) -> None:
    """Print one row per tested setting, then the best of each method and what failed."""
    from mtpeft.printing import print_list, print_table, print_text

    sweep = Sweep.of(content)
    head = [*sweep.setting_titles(), "runs", sweep.title, WEIGHTS, "PPT"]
    rows = [
        [*sweep.setting_cells(row), str(len(row.test)), *sweep.figure_cells(row)]
        for row in sweep.tested
        if content["select"] is None or row.chosen
    ]
    print_table(console, head, rows, title=f"sweep of {content['name']}: {_part(content)}", transposable=False)
    best = [(row.method, row.name, statistic(row.value(), sweep.unit)) for row in sweep.rows if row.chosen]
    if content["select"] is None and len(sweep.rows) > len(best):
        print_text(console, "Best setting of each method (chosen on the test part, so its figure flatters it):")
        print_list(console, best)
    for folder, reason in sweep.failed():
        print_text(console, f"failed: {folder}: {reason}")


def _part(content: Mapping[str, Any]) -> str:
    if content["select"] is None:
        return "all settings, on the test part"
    return "the settings chosen on validation data, on the test part"


_DEVIATION = "Mean ± standard deviation (n − 1) over the runs of a setting: its seeds and its orders of classes."


def _best_note(sweep: Sweep) -> str:
    select = sweep.content["select"]
    if select is None:
        return (
            "Chosen on the test part, so these figures flatter their settings: with --select validation, settings are chosen "
            "on data held out of the training part."
        )
    return (
        f"Chosen by the mean over its runs on a share of {select['share']:g} held out of the training part, in runs that did "
        "not measure the test part; then trained as the recipe says and tested. The test part chose nothing, and was "
        "measured for these settings alone."
    )


def _best_table(sweep: Sweep) -> str:
    chosen = sweep.content["select"] is not None
    head = [*map(_capital, sweep.setting_titles()), *(["On validation data"] if chosen else []), *_figure_titles(sweep)]
    rows = []
    for row in sweep.rows:
        if row.chosen:
            held = [statistic(row.value("validation"), sweep.unit)] if chosen else []
            rows.append([*_named(sweep, row), *held, *sweep.figure_cells(row)])
    return table("best setting of each method", head, rows, text_columns=len(sweep.setting_titles()))


def _settings_table(sweep: Sweep, part: str) -> str:
    rows = [row for row in sweep.rows if getattr(row, part)]
    head = [*map(_capital, sweep.setting_titles()), "Runs"]
    if part == "test":
        cells = [[*_named(sweep, row), str(len(row.test)), *sweep.figure_cells(row)] for row in rows]
        head += _figure_titles(sweep)
    else:
        marks = ["chosen" if row.chosen else "" for row in rows]
        cells = [
            [*_named(sweep, row), str(len(row.validation)), statistic(row.value("validation"), sweep.unit), mark]
            for row, mark in zip(rows, marks, strict=True)
        ]
        head += [_capital(sweep.title), ""]
    return table(f"settings, {part}", head, cells, text_columns=len(sweep.setting_titles()))


def _validation(sweep: Sweep) -> str:
    if sweep.content["select"] is None:
        return ""
    return card("Settings on validation data", _DEVIATION, _settings_table(sweep, "validation"))


def _orders(sweep: Sweep) -> str:
    """How much the order of the classes matters."""
    orders = sweep.content["orders"]
    if orders is None:
        return ""
    head = [*map(_capital, sweep.setting_titles()), *(f"Order {order}" for order in orders), "Over orders"]
    rows = [
        [
            *_named(sweep, row),
            *(statistic(row.of_order(order), sweep.unit) for order in orders),
            statistic(row.spread(orders), sweep.unit),
        ]
        for row in sweep.tested
    ]
    note = "Each order by the mean ± standard deviation over its seeds; the last column is that over the means of the orders."
    return card("Orders of classes", note, table("orders of classes", head, rows, len(sweep.setting_titles())))


def _runs_table(sweep: Sweep) -> str:
    """Every run with its figure and each task's metric."""
    runs = [(row, part, run) for row in sweep.rows for part in ("validation", "test") for run in getattr(row, part)]
    tasks = list(dict.fromkeys(task for _, _, run in runs for task in run["tasks"]))
    ordered = sweep.content["orders"] is not None
    head = ["Run", "Part", "Seed", *(["Order"] if ordered else []), _capital(sweep.title), *tasks]
    rows: list[list[Cell]] = []
    for row, part, run in runs:
        order = [str(run["order"])] if ordered else []
        ends = [number(run["tasks"].get(task), sweep.unit) for task in tasks]
        rows.append([key(row.index, row.name), part, str(run["seed"]), *order, number(run["value"], sweep.unit), *ends])
    return table("every run", head, rows, text_columns=2)


def _failed(sweep: Sweep) -> str:
    failed = sweep.failed()
    if not failed:
        return ""
    note = "Their settings have no mean; the same command tries them again."
    return card(f"{plural(len(failed), 'run')} failed", note, table("failed runs", ["Run", "Why"], failed, 2))


def _scatter(sweep: Sweep, plots: Plots) -> str:
    chart = scatter_chart(sweep)
    if chart is None:
        return ""
    none = [row.name for row in sweep.tested if row.weights == 0]
    note = "One mark per setting; bars are standard deviations over its runs."
    note += f" Not shown, as a logarithm has no zero: {', '.join(none)}." if none else ""
    legend = "".join(f"<li>{key(index, method)}</li>" for index, method in enumerate(sweep.methods))
    title = f"{_capital(sweep.title)} against {WEIGHTS}"
    return card(title, note, f'<ul class="legend">{legend}</ul>', plots.place(chart))


def scatter_chart(sweep: Sweep) -> Chart | None:
    """The figure against trained weights, on a logarithmic axis; None where no setting has both."""
    traces = []
    for index, method in enumerate(sweep.methods):
        rows = [row for row in sweep.tested if row.method == method and row.weights and row.value().mean is not None]
        if not rows:
            continue
        colour, symbol, _ = palette(index)
        values = [row.value() for row in rows]
        traces.append(
            {
                "x": [row.weights for row in rows],
                "y": [value.mean for value in values],
                "error_y": {
                    "type": "data",
                    "array": [value.std or 0.0 for value in values],
                    "thickness": 1,
                    "width": 3,
                    "color": colour,
                },
                "text": [plain(row.name) for row in rows],
                "hovertemplate": "%{text}: %{y:.4g}, %{x:,} weights<extra></extra>",
                "name": plain(method),
                "mode": "markers",
                "marker": {"color": colour, "symbol": symbol, "size": 10},
            }
        )
    if not traces:
        return None
    x = {"title": {"text": f"{WEIGHTS} (logarithmic scale)"}, "type": "log"}
    return chart_of(f"{sweep.title} against {WEIGHTS}", traces, x, {"title": {"text": plain(sweep.title)}}, height=360)


def _formulas(sweep: Sweep) -> str:
    items = [
        ("Mean ± deviation", "x̄ = 1/n · Σ x, s = √(Σ (x − x̄)² / (n − 1))", "One run has no deviation."),
        (
            _capital(sweep.title),
            "1/T · Σ_j R_j",
            "R_j is the metric on task j at the end; a multi-task delta is as in its run.",
        ),
        (_capital(WEIGHTS), "P", "All that training changes, heads not counted."),
        ("PPT", "M · exp(−log₁₀(P / 10⁷ + 1))", "M is the accuracy from 0 to 1. Xin et al. 2024, V-PETL Bench."),
    ]
    terms = (
        f'<dt>{escape(name)}</dt><dd><code>{escape(formula)}</code><br><span class="note">{escape(note)}</span></dd>'
        for name, formula, note in items
    )
    return f'<dl class="formulas">{"".join(terms)}</dl>'


def _recipe(content: Mapping[str, Any]) -> str:
    kept = {name: content[name] for name in ("axes", "seeds", "orders", "select", "recipe")}
    return details("Recipe and grid", f"<pre>{escape(json.dumps(kept, indent=2, sort_keys=True))}</pre>")


def _figure_titles(sweep: Sweep) -> list[str]:
    return [_capital(sweep.title), _capital(WEIGHTS), "PPT"]


def _named(sweep: Sweep, row: Row) -> Sequence[Cell]:
    """The cells of a setting, the first with the colour of its method."""
    first, *others = sweep.setting_cells(row)
    return [key(row.index, first), *others]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
