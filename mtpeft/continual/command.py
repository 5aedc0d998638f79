"""The continual commands: one run, or several compared, with progress, Ctrl-C and resume; evaluation of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mtpeft.continual.experiment import Experiment
from mtpeft.continual.summary import model_tasks
from mtpeft.errors import ConfigError
from mtpeft.evaluation.results import read
from mtpeft.report import print_summary, write_report
from mtpeft.runs.command import compare, conclude, finished_run, opening, print_measured, run_path
from mtpeft.runs.comparison import Row, comparison_rows, is_joint
from mtpeft.runs.console import interrupts, open_console, progress_bar
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.loading import nothing_unpickled
from mtpeft.runs.model_folder import MODEL, TASKS
from mtpeft.runs.recipe import load_recipe

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
    """Run a recipe to the end in its folder, or go on where the folder's checkpoint stands; prints the summary.

    The rows of a comparison each have a folder of their own below it.
    """
    console = open_console()
    rows, path = rows_of(recipe), run_path(recipe, out, resume)
    if "rows" in recipe:
        return _compare(rows, path, console, fresh)
    results = run_in(recipe, path, console, fresh)
    return conclude(None if results is None else [results], path / "report.html", console, print_summary)


def run_in(recipe: dict[str, Any], path: Path, console: Console, fresh: bool = False) -> dict[str, Any] | None:
    """As `run`, without the summary; returns the results, those on disk when the run is complete already."""
    if made_up(recipe.get("stream")):
        raise ConfigError(f"recipe {recipe['name']}: data.generated makes up clips, which is for --dry-run alone")
    folder = RunFolder(path, recipe, fresh)
    console.print(opening(recipe, path, folder.complete), soft_wrap=True)
    if folder.complete:
        results = read(folder.results)
    else:
        with folder.session(), progress_bar(console) as callbacks, interrupts() as stop:
            found = Experiment(recipe, callbacks).run(folder, lambda: bool(stop))
        if found is None:
            return None
        results = found
    if not folder.report.is_file():
        write_report([results], folder.report)
    return results


def made_up(value: Any) -> bool:
    """Whether some data set of a stream is to be made up."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return (isinstance(value, Mapping) and "generated" in value) or any(made_up(part) for part in inner)


def rows_of(recipe: dict[str, Any]) -> list[Row]:
    """The rows of a comparison, the recipe itself when it is none; `ConfigError` where they are not for this engine."""
    if recipe.get("reference") is not None:
        raise ConfigError(f"recipe {recipe['name']}: the key reference is for comparisons of joint recipes")
    rows = comparison_rows(recipe) if "rows" in recipe else [Row(str(recipe["name"]), recipe)]
    for row in rows:
        if is_joint(row.recipe):
            raise ConfigError(f"recipe {row.name} has `tasks`: it is a joint one (mtpeft train), not a continual one")
    return rows


def demo(out: Path, overrides: Sequence[str] = ()) -> int:
    """Run all recipes of the demo, print the comparison, write the common report."""
    return _compare([Row(name, load_recipe(name, overrides)) for name in DEMO], out, open_console())


def _compare(rows: Sequence[Row], path: Path, console: Console, fresh: bool = False) -> int:
    def one(values: dict[str, Any], folder: Path) -> dict[str, Any] | None:
        return run_in(values, folder, console, fresh)

    return compare(rows, path, console, one, write_report, print_summary, fresh)


def evaluate(path: Path, trust_imports: bool = False) -> int:
    """Evaluate the final state of a run on all its tasks; 1 when the numbers are not those of results.json."""
    console = open_console()
    folder, recipe, results = finished_run(path, trust_imports)
    with nothing_unpickled():
        experiment = Experiment(recipe)
    row, stored = experiment.evaluate_final(folder), results["matrix"]["values"][-1]
    if not (path / MODEL / TASKS).is_file():  # a run of an earlier version
        model_tasks(experiment.manager, experiment.stream).write(path / MODEL)
    for task, new, old in zip(results["tasks"], row, stored, strict=True):
        print_measured(console, task, new, old, ".2f")
    return 0 if row == stored else 1
