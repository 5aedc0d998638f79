"""The joint command: one run, several separate ones, or a comparison, with progress, Ctrl-C and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from mtpeft.errors import ConfigError
from mtpeft.evaluation.results import read, write
from mtpeft.joint.distributed import gather, rank, start, together
from mtpeft.joint.experiment import JointExperiment
from mtpeft.joint.separate import merge, separate_recipes
from mtpeft.report import print_joint_summary, write_report
from mtpeft.runs.comparison import comparison_rows, run_rows
from mtpeft.runs.console import interrupts, open_console, progress_bar
from mtpeft.runs.device import usable_device
from mtpeft.runs.folder import RunFolder, default_folder, read_recipe

Results = dict[str, Any]


def run(recipe: dict[str, Any], out: Path | None = None, resume: bool = False, fresh: bool = False) -> int:
    """Run a recipe to the end in its folder, or go on where the folder's checkpoint stands; prints the summary.

    Under torchrun every process calls this; the first one writes and prints.
    """
    start(usable_device(recipe.get("device", "cpu"), recipe["name"]))
    console = open_console() if rank() == 0 else Console(quiet=True)
    with together():
        return _run(recipe, out or default_folder(recipe), console, resume, fresh)


def _run(recipe: dict[str, Any], path: Path, console: Console, resume: bool, fresh: bool) -> int:
    if resume and not any(path.rglob("checkpoints/state.json")):
        raise ConfigError(f"{path} has no checkpoint to resume from; leave --resume out to start")
    if "rows" in recipe:
        return _compare(recipe, path, console, fresh)
    results = run_in(recipe, path, console, fresh)
    if results is None:
        console.print("interrupted; the same command goes on from here")
        return 130
    print_joint_summary([results], console)
    if results["delta"] is None:
        console.print(
            "no single-task values (key single_task): no multi-task delta, and no best checkpoint beside the last"
        )
    elif results["best"] is None:
        console.print(
            "no selection: without validation data (key validation=dict(share=0.1, seed=0)) there is no best checkpoint "
            "beside the last"
        )
    console.print(f"report: {path / 'report.html'}", soft_wrap=True)
    return 0


def run_in(recipe: dict[str, Any], path: Path, console: Console, fresh: bool = False) -> Results | None:
    """As `run`, without the summary; returns the results, those on disk when the run is complete already."""
    if recipe.get("separate"):
        return _separate(recipe, path, console, fresh)
    complete = gather((path / "results.json").is_file() and not fresh)[0]
    with progress_bar(console) as callbacks, interrupts() as stop:
        callbacks.message(
            f"{path}: complete already (--fresh runs it again)" if complete else f"{recipe['name']}: {path}"
        )
        experiment = None if complete else JointExperiment(recipe, callbacks)
        folder = RunFolder(path, recipe, fresh) if rank() == 0 else None  # refuses the results of another recipe
        if experiment is not None:
            results = experiment.run(folder, lambda: bool(stop))
        else:
            results = None if folder is None else read(folder.results)
    results = gather(results)[0]
    _report(results, path)
    return results


def _report(results: Results | None, path: Path) -> None:
    """Write the report of a complete run, unless it is there."""
    if rank() == 0 and results is not None and not (path / "report.html").is_file():
        write_report([results], path / "report.html", [path])


def evaluate(path: Path) -> int:
    """Evaluate the final state of a run on all its tasks; 1 when the numbers are not those of results.json."""
    console = open_console()
    recipe = read_recipe(path)
    folder = RunFolder(path, recipe)
    if not folder.results.is_file():
        raise ConfigError(f"{path} is not complete: it has no results.json; run its recipe to the end first")
    results = read(folder.results)
    if recipe.get("separate"):
        return max(evaluate(path / sub) for sub in separate_recipes(recipe))
    values = JointExperiment(recipe).evaluate_final(folder)
    for task in results["tasks"]:
        new, old = values[task["name"]][task["metric"]], results["main"][task["name"]]
        note = "" if new == old else f"  (results.json: {old})"
        shown = "undefined" if new is None else f"{new:.4g}"
        console.print(f"{task['name']}: {task['metric']} {shown} {task['unit']}{note}", highlight=False)
    return 0 if values == results["final"] else 1


def _separate(recipe: dict[str, Any], path: Path, console: Console, fresh: bool) -> Results | None:
    """A run per task in a folder of its own below `path`, then the results of all of them in one file."""
    folder = RunFolder(path, recipe, fresh) if rank() == 0 else None
    found = {}
    for name, one in separate_recipes(recipe).items():
        results = run_in(one, path / name, console)
        if results is None:
            return None
        found[name] = results
    results = None
    if folder is not None:
        if not folder.results.is_file():
            write(folder.results, merge(recipe, found, path))
        results = read(folder.results)
    results = gather(results)[0]
    _report(results, path)
    return results


def _compare(recipe: dict[str, Any], path: Path, console: Console, fresh: bool) -> int:
    """All rows of a comparison; those complete already are taken from their folders."""
    rows = comparison_rows(recipe)
    collected = run_rows(rows, path, lambda values, folder: run_in(values, folder, console, fresh))
    if collected is None:
        console.print("interrupted; the same command goes on from here")
        return 130
    if rank() == 0:
        write_report(collected, path / "report.html", [path / row.name for row in rows])
    print_joint_summary(collected, console)
    console.print(f"report: {path / 'report.html'}", soft_wrap=True)
    return 0
