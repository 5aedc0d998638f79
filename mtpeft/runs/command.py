"""What the commands of both engines do alike: where a run goes, what is said at its end, what is evaluated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mtpeft.errors import ConfigError
from mtpeft.evaluation.results import read
from mtpeft.runs.comparison import Row, run_rows
from mtpeft.runs.folder import RunFolder, default_folder, read_recipe
from mtpeft.runs.loading import check_trust

Results = dict[str, Any]


def run_path(recipe: dict[str, Any], out: Path | None, resume: bool) -> Path:
    """The folder of a run; `ConfigError` where it should go on and has nothing to go on from."""
    path = out or default_folder(recipe)
    if resume and not any(path.rglob("checkpoints/state.json")):
        raise ConfigError(f"{path} has no checkpoint to resume from; leave --resume out to start")
    return path


def opening(recipe: dict[str, Any], path: Path, complete: bool) -> str:
    """What is said first."""
    return f"{path}: complete already (--fresh runs it again)" if complete else f"{recipe['name']}: {path}"


def conclude(results: Sequence[Results] | None, page: Path, console: Console, show: Callable[..., None]) -> int:
    """Print the summary by `show(results, console)` and where the report is; the exit code, 130 for None: interrupted."""
    if results is None:
        console.print("interrupted; the same command goes on from here")
        return 130
    show(results, console)
    console.print(f"report: {page}", soft_wrap=True)
    return 0


def compare(
    rows: Sequence[Row],
    path: Path,
    console: Console,
    run: Callable[[Results, Path], Results | None],
    write_report: Callable[[list[Results], Path, list[Path]], object],
    show: Callable[..., None],
    fresh: bool = False,
) -> int:
    """All rows, one summary, one report; those complete already are taken from their folders. Returns the exit code."""
    if not fresh:
        _check_rows(rows, path)
    page = path / "report.html"
    collected = run_rows(rows, path, run)
    if collected is not None:
        write_report(collected, page, [path / row.name for row in rows])
    return conclude(collected, page, console, show)


def _check_rows(rows: Sequence[Row], path: Path) -> None:
    """A finished reference is not made longer: its values are the single-task values of rows that have been measured."""
    for row in rows:
        folder = path / row.name
        if row.reference and (folder / "config.py").is_file() and RunFolder(folder, row.recipe).longer:
            raise ConfigError(
                f"{folder} is the reference of the comparison: it cannot go on for longer, as the deltas of the other rows "
                "are measured against it; give another --out, or --fresh to discard all"
            )


def finished_run(path: Path, trust_imports: bool = False) -> tuple[RunFolder, dict[str, Any], Results]:
    """Folder, recipe and results of a run to be evaluated again; `ConfigError` when it has not finished.

    `trust_imports`: its recipe may import modules.
    """
    recipe = read_recipe(path)
    check_trust(recipe, path, trust_imports)
    folder = RunFolder(path, recipe)
    if not folder.results.is_file():
        raise ConfigError(f"{path} is not complete: it has no results.json; run its recipe to the end first")
    return folder, recipe, read(folder.results)


def print_measured(console: Console, task: dict[str, Any], new: float | None, old: float | None, digits: str) -> None:
    """A task's metric as measured again, and what results.json says where that differs."""
    note = "" if new == old else f"  (results.json: {old if old is None else format(old, digits)})"
    shown = "undefined" if new is None else format(new, digits)
    console.print(f"{task['name']}: {task['metric']} {shown} {task['unit']}{note}", highlight=False)
