"""The commands `ls`, `diff`: what runs there are, and in what two of them differ."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtpeft.cli.arguments import Commands

if TYPE_CHECKING:
    from mtpeft.runs.overview import Overview


def add(commands: Commands) -> None:
    """The parsers of this file's commands."""
    ls = commands.add_parser("ls", help="the runs below a folder: state, figure, duration")
    default = Path(os.environ.get("MTPEFT_RUNS", "runs"))
    ls.add_argument("folder", type=Path, nargs="?", default=default, metavar="FOLDER", help="default: runs/")
    ls.add_argument("--json", action="store_true", help="for scripts: a list")
    ls.set_defaults(run=_ls)

    diff = commands.add_parser("diff", help="the keys in which the recipes of two runs differ, and their figures")
    diff.add_argument("first", type=Path, metavar="RUN")
    diff.add_argument("second", type=Path, metavar="RUN")
    diff.set_defaults(run=_diff)


def _ls(options: argparse.Namespace) -> int:
    from mtpeft.printing import print_table, print_text
    from mtpeft.runs.console import open_console
    from mtpeft.runs.overview import overview, run_folders

    folder = options.folder
    found = [overview(path, path.relative_to(folder).as_posix()) for path in run_folders(folder)]
    if options.json:
        print(json.dumps([run.to_dict() for run in found], indent=2, ensure_ascii=False))
        return 0
    console = open_console()
    if not found:
        console.print(f"no run below {folder}", highlight=False, soft_wrap=True)
        return 0
    titles = {run.figure.title for run in found if run.figure is not None}
    head = ["run", "state", "recipe", "seed", titles.pop() if len(titles) == 1 else "figure", "duration"]
    rows = [
        [r.folder, _state(r), r.recipe, _text(r.seed), _figure(r, "figure" in head), _duration(r.seconds)]
        for r in found
    ]
    print_table(console, head, rows, transposable=False)
    for run in found:
        if run.state in ("failed", "damaged"):
            print_text(console, f"{run.folder}: {run.state}: {run.detail}")
    return 0


def _state(run: Overview) -> str:
    return run.state if run.state in ("finished", "failed", "damaged") else f"{run.state} {run.detail}"


def _text(value: Any) -> str:
    from mtpeft.report.numbers import MISSING

    return MISSING if value is None else str(value)


def _figure(run: Overview, titled: bool) -> str:
    from mtpeft.report.numbers import MISSING, number

    if run.figure is None:
        return MISSING
    title = f"{run.figure.title} " if titled else ""
    return f"{title}{number(run.figure.value, run.figure.unit)} {run.figure.unit}".strip()


def _duration(seconds: float | None) -> str:
    from mtpeft.report.numbers import MISSING

    if seconds is None:
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _diff(options: argparse.Namespace) -> int:
    from mtpeft.printing import print_table
    from mtpeft.runs.config_file import read_recipe
    from mtpeft.runs.console import open_console
    from mtpeft.runs.overview import differing

    folders = (options.first, options.second)
    console = open_console()
    keys = differing(*(read_recipe(folder) for folder in folders))
    names = [folder.resolve().name for folder in folders]
    names = names if names[0] != names[1] else list(map(str, folders))
    head = ["key", *names]
    if keys:
        rows = [[key, *("not given" if value is ... else str(value) for value in values)] for key, *values in keys]
        print_table(console, head, rows, transposable=False)
    else:
        console.print("the recipes are the same", highlight=False)
    figures = _figures(folders)
    if figures:
        print_table(console, ["figure", *names, "difference"], figures, transposable=False)
    return 0


def _figures(folders: tuple[Path, Path]) -> list[list[str]]:
    """Figure and tasks that both runs have, and the second's lead over the first; nothing unless both have finished."""
    from mtpeft.evaluation.figure import figure_of, task_values
    from mtpeft.evaluation.results import read
    from mtpeft.report.groups import Statistic
    from mtpeft.report.numbers import MISSING, number, signed, with_unit

    if not all((folder / "results.json").is_file() for folder in folders):
        return []
    first, second = (read(folder / "results.json") for folder in folders)
    one, other = figure_of(first), figure_of(second)
    rows: list[tuple[str, str, float | None, float | None]] = []
    if one is not None and other is not None and (one.title, one.unit) == (other.title, other.unit):
        rows.append((with_unit(one.title, one.unit), one.unit, one.value, other.value))
    ends = task_values(first), task_values(second)
    kinds = [{task["name"]: (task["metric"], task["unit"]) for task in run["tasks"]} for run in (first, second)]
    for name, (metric, unit) in kinds[0].items():
        if kinds[1].get(name) == (metric, unit):
            rows.append((f"{name}: {with_unit(metric, unit)}", unit, ends[0][name], ends[1][name]))
    return [
        [
            title,
            number(a, unit),
            number(b, unit),
            MISSING if a is None or b is None else signed(Statistic(b - a), unit),
        ]
        for title, unit, a, b in rows
    ]
