"""The continual commands: one run with progress, Ctrl-C and resume; the demo; evaluation of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mtpeft.console import interrupts, open_console, progress_bar
from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError
from mtpeft.evaluation.results import read
from mtpeft.recipe import load_recipe
from mtpeft.report import print_summary, write_report
from mtpeft.run_folder import RunFolder, default_folder, read_recipe

#: the demo: each against the others on the same tasks, known and not known at test time
DEMO = (
    "fashion_full",
    "fashion_lora",
    "fashion_lae",
    "fashion_adapters",
    "fashion_class_full",
    "fashion_class_lora",
    "fashion_class_lae",
)


def run(recipe: dict[str, Any], out: Path | None = None, resume: bool = False, fresh: bool = False) -> int:
    """Run a recipe to the end in its folder, or go on where the folder's checkpoint stands; prints the summary."""
    console = open_console()
    path = out or default_folder(recipe)
    if resume and not (path / "checkpoints" / "state.json").is_file():
        raise ConfigError(f"{path} has no checkpoint to resume from; leave --resume out to start")
    results = run_in(recipe, path, console, fresh)
    if results is None:
        console.print("interrupted; the same command goes on from here")
        return 130
    print_summary([results], console)
    console.print(f"report: {path / 'report.html'}", soft_wrap=True)
    return 0


def run_in(recipe: dict[str, Any], path: Path, console: Console, fresh: bool = False) -> dict[str, Any] | None:
    """As `run`, without the summary; returns the results, those on disk when the run is complete already."""
    folder = RunFolder(path, recipe, fresh)
    if folder.results.is_file():
        console.print(f"{path}: complete already (--fresh runs it again)", soft_wrap=True)
        results = read(folder.results)
    else:
        console.print(f"{recipe['name']}: {path}", soft_wrap=True)
        with progress_bar(console) as callbacks, interrupts() as stop:
            found = Experiment(recipe, callbacks).run(folder, lambda: bool(stop))
        if found is None:
            return None
        results = found
    if not folder.report.is_file():
        write_report([results], folder.report)
    return results


def demo(out: Path, overrides: Sequence[str] = ()) -> int:
    """Run all recipes of the demo, print the comparison, write the common report."""
    console = open_console()
    collected = []
    for name in DEMO:
        recipe = load_recipe(name, overrides)
        results = run_in(recipe, out / name, console)
        if results is None:
            console.print("interrupted; the same command goes on from here")
            return 130
        collected.append(results)
    report = write_report(collected, out / "report.html")
    print_summary(collected, console)
    console.print(f"report: {report}", soft_wrap=True)
    return 0


def evaluate(path: Path) -> int:
    """Evaluate the final state of a run on all its tasks; 1 when the numbers are not those of results.json."""
    console = open_console()
    folder = RunFolder(path, read_recipe(path))
    if not folder.results.is_file():
        raise ConfigError(f"{path} is not complete: it has no results.json; run its recipe to the end first")
    results = read(folder.results)
    experiment = Experiment(read_recipe(path))
    row = experiment.evaluate_final(folder)
    stored = results["matrix"]["values"][-1]
    for task, new, old in zip(results["tasks"], row, stored, strict=True):
        note = "" if new == old else f"  (results.json: {old:.2f})"
        console.print(f"{task['name']}: {task['metric']} {new:.2f} {task['unit']}{note}", highlight=False)
    return 0 if row == stored else 1
