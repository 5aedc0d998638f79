"""The joint command: one run, several separate ones, or a comparison, with progress, Ctrl-C and resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mtpeft.data.made_up import is_made_up
from mtpeft.errors import ConfigError
from mtpeft.evaluation.results import read, write
from mtpeft.joint.experiment import JointExperiment
from mtpeft.joint.separate import merge, separate_recipes
from mtpeft.report import print_joint_summary, write_report
from mtpeft.runs.command import compare, conclude, finished_run, opening, print_measured, run_path
from mtpeft.runs.comparison import comparison_rows
from mtpeft.runs.console import interrupts, open_console, progress_bar
from mtpeft.runs.device import AUTO, usable_device
from mtpeft.runs.distributed import first, rank, start, together
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.loading import nothing_unpickled
from mtpeft.runs.model_folder import MODEL, TASKS

Results = dict[str, Any]


def run(recipe: dict[str, Any], out: Path | None = None, resume: bool = False, fresh: bool = False) -> int:
    """Run a recipe to the end in its folder, or go on where the folder's checkpoint stands; prints the summary.

    Under torchrun every process calls this; the first one writes and prints.
    """
    start(usable_device(recipe.get("device", AUTO), recipe["name"]))
    console = open_console() if rank() == 0 else Console(quiet=True)
    with together():
        return _run(recipe, run_path(recipe, out, resume), console, fresh)


def _run(recipe: dict[str, Any], path: Path, console: Console, fresh: bool) -> int:
    if "rows" in recipe:
        return _compare(recipe, path, console, fresh)
    results = run_in(recipe, path, console, fresh)
    return conclude(None if results is None else [results], path / "report.html", console, _show)


def _show(results: Sequence[Results], console: Console) -> None:
    print_joint_summary(results, console)
    if len(results) == 1 and results[0]["delta"] is None:
        console.print(
            "no single-task values (key single_task): no multi-task delta, and no best checkpoint beside the last"
        )
    elif len(results) == 1 and results[0]["best"] is None:
        console.print(
            "no selection: without validation data (key validation=dict(share=0.1, seed=0)) there is no best checkpoint "
            "beside the last"
        )


def run_in(recipe: dict[str, Any], path: Path, console: Console, fresh: bool = False) -> Results | None:
    """As `run`, without the summary; returns the results, those on disk when the run is complete already."""
    if is_made_up([recipe.get("data"), recipe.get("tasks")]):
        raise ConfigError(f"recipe {recipe['name']}: data.generated makes up data, which is for plans alone")
    if recipe.get("separate"):
        return _separate(recipe, path, console, fresh)
    folder = RunFolder(path, recipe, fresh, writes=rank() == 0)
    complete = first(folder.complete)
    with folder.session(), progress_bar(console) as callbacks, interrupts() as stop:
        callbacks.message(opening(recipe, path, complete))
        if not complete:
            results = JointExperiment(recipe, callbacks).run(folder, lambda: bool(stop))
        else:
            results = read(folder.results) if folder.writes else None
    results = first(results)
    _report(results, path)
    return results


def _report(results: Results | None, path: Path) -> None:
    """Write the report of a complete run, unless it is there."""
    if rank() == 0 and results is not None and not (path / "report.html").is_file():
        write_report([results], path / "report.html", [path])


def evaluate(path: Path, trust_imports: bool = False) -> int:
    """Evaluate the final state of a run on all its tasks; 1 when the numbers are not those of results.json."""
    console = open_console()
    folder, recipe, results = finished_run(path, trust_imports)
    if recipe.get("separate"):
        return max(evaluate(path / sub, trust_imports) for sub in separate_recipes(recipe))
    with together():
        with nothing_unpickled():
            experiment = JointExperiment(recipe)
        values = experiment.evaluate_final(folder)
        if rank() == 0 and not (path / MODEL / TASKS).is_file():  # a run of an earlier version
            experiment.model_tasks.write(path / MODEL)
        for task in results["tasks"]:
            print_measured(console, task, values[task["name"]][task["metric"]], results["main"][task["name"]], ".4g")
        return 0 if values == results["final"] else 1


def _separate(recipe: dict[str, Any], path: Path, console: Console, fresh: bool) -> Results | None:
    """A run per task in a folder of its own below `path`, then the results of all of them in one file."""
    folder = RunFolder(path, recipe, fresh, writes=rank() == 0)
    recipes = separate_recipes(recipe)
    if folder.writes:
        inner = [] if folder.fresh else [RunFolder(path / name, one) for name, one in recipes.items()]  # refuse first
        states = [one.state.read() for one in inner]
        folder.open()
        folder.accept(min((state["step"] for state in states if state is not None), default=0))
    found = {}
    for name, one in recipes.items():
        results = run_in(one, path / name, console)
        if results is None:
            return None
        found[name] = results
    results = None
    if folder.writes:
        if not folder.results.is_file():
            write(folder.results, merge(recipe, found, path))
        results = read(folder.results)
    results = first(results)
    _report(results, path)
    return results


def _compare(recipe: dict[str, Any], path: Path, console: Console, fresh: bool) -> int:
    def one(values: Results, folder: Path) -> Results | None:
        return run_in(values, folder, console, fresh)

    def report(results: list[Results], page: Path, folders: list[Path]) -> None:
        if rank() == 0:
            write_report(results, page, folders)

    return compare(comparison_rows(recipe), path, console, one, report, print_joint_summary, fresh)
