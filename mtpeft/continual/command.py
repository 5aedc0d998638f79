"""The continual commands: one run, or several compared, with progress, Ctrl-C and resume; evaluation of a finished run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from mtpeft.continual.experiment import Experiment
from mtpeft.continual.search import SEARCH, SUBNET, SUPERNET, Search, SearchRecipe, discard
from mtpeft.continual.summary import model_tasks
from mtpeft.data.made_up import is_made_up
from mtpeft.errors import ConfigError
from mtpeft.evaluation.results import read
from mtpeft.report import print_summary, write_report
from mtpeft.runs.command import compare, conclude, finished_run, opening, print_measured, run_path
from mtpeft.runs.comparison import Row, comparison_rows, is_joint
from mtpeft.runs.console import interrupts, open_console, progress_bar
from mtpeft.runs.device import AUTO, usable_device
from mtpeft.runs.distributed import first, rank, start, together, world
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.loading import nothing_unpickled
from mtpeft.runs.lock import Lock
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
    "fashion_class_ranpac",
)


def run(recipe: dict[str, Any], out: Path | None = None, resume: bool = False, fresh: bool = False) -> int:
    """Run a recipe to the end in its folder, or go on where the folder's checkpoint stands; prints the summary.

    The rows of a comparison, and the stages of a search, each have a folder of their own below it. Under torchrun every
    process calls this; the first one writes and prints.
    """
    rows = rows_of(recipe)
    with _processes(rows[0].recipe) as console:
        path = run_path(recipe, out, resume)
        if "search" in recipe:
            return _search(SearchRecipe(recipe), path, console, fresh)
        if "rows" in recipe:
            return _compare(rows, path, console, fresh)
        results = run_in(recipe, path, console, fresh)
        return conclude(None if results is None else [results], path / "report.html", console, print_summary)


@contextmanager
def _processes(recipe: Mapping[str, Any]) -> Iterator[Console]:
    """All processes of torchrun together; the terminal, which the first one has."""
    start(usable_device(recipe.get("device", AUTO), recipe["name"]))
    with together():
        yield open_console() if rank() == 0 else Console(quiet=True)


def run_in(recipe: dict[str, Any], path: Path, console: Console, fresh: bool = False) -> dict[str, Any] | None:
    """As `run`, without the summary; returns the results, those on disk when the run is complete already."""
    if is_made_up(recipe.get("stream")):
        raise ConfigError(f"recipe {recipe['name']}: data.generated makes up data, which is for plans alone")
    folder = RunFolder(path, recipe, fresh, writes=rank() == 0)
    complete = first(folder.complete)
    console.print(opening(recipe, path, complete), soft_wrap=True)
    if not complete:
        with folder.session(), progress_bar(console) as callbacks, interrupts() as stop:
            results = Experiment(recipe, callbacks).run(folder, lambda: bool(stop))
    else:
        results = read(folder.results) if folder.writes else None
    if results is not None and not folder.report.is_file():
        write_report([results], folder.report)
    return first(results)


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
    rows = [Row(name, load_recipe(name, overrides)) for name in DEMO]
    with _processes(rows[0].recipe) as console:
        return _compare(rows, out, console)


def _compare(rows: Sequence[Row], path: Path, console: Console, fresh: bool = False) -> int:
    def one(values: dict[str, Any], folder: Path) -> dict[str, Any] | None:
        return run_in(values, folder, console, fresh)

    def report(results: list[dict[str, Any]], page: Path, folders: list[Path]) -> None:
        if rank() == 0:
            write_report(results, page, folders)

    return compare(rows, path, console, one, report, print_summary, fresh)


def _search(recipe: SearchRecipe, path: Path, console: Console, fresh: bool = False) -> int:
    """The three stages of a search, each from where it stands: supernet, search, subnet. Returns the exit code."""
    if world() > 1:
        raise ConfigError(f"recipe {recipe.name}: a search is one process's work: run the command without torchrun")
    if fresh:
        discard(path)
    if fresh or not (path / SUPERNET / "results.json").is_file():
        recipe.check()
    page = path / SUBNET / "report.html"
    if run_in(recipe.supernet(), path / SUPERNET, console, fresh) is None:
        return conclude(None, page, console, print_summary)
    search = Search(recipe, path / SUPERNET, path / SEARCH)
    lock = Lock(path / SEARCH / "lock", str(path / SEARCH))
    try:
        found = search.found
        if found is None:
            with progress_bar(console) as callbacks, interrupts() as stop:
                found = search.run(lambda: bool(stop), callbacks)
    finally:
        lock.release()
    if found is None:
        return conclude(None, page, console, print_summary)
    for line in found.told:
        console.print(line, soft_wrap=True, highlight=False)
    results = run_in(recipe.subnet(found.subnet), path / SUBNET, console)
    return conclude(None if results is None else [results], page, console, print_summary)


def evaluate(path: Path, trust_imports: bool = False) -> int:
    """Evaluate the final state of a run on all its tasks; 1 when the numbers are not those of results.json."""
    folder, recipe, results = finished_run(path, trust_imports)
    with _processes(recipe) as console:
        with nothing_unpickled():
            experiment = Experiment(recipe)
        row, stored = experiment.evaluate_final(folder), results["matrix"]["values"][-1]
        if rank() == 0 and not (path / MODEL / TASKS).is_file():  # a run of an earlier version
            model_tasks(experiment.manager, experiment.stream).write(path / MODEL)
        for task, new, old in zip(results["tasks"], row, stored, strict=True):
            print_measured(console, task, new, old, ".2f")
        return 0 if row == stored else 1
