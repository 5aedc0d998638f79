"""A sweep from plan to results: the runs that are not finished are run, what was chosen is tested, all is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mtpeft.errors import ConfigError
from mtpeft.evaluation.figure import figure_of
from mtpeft.evaluation.results import read as read_results
from mtpeft.runs.console import interrupts, progress_bar
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.lock import Lock
from mtpeft.runs.progress import Progress
from mtpeft.runs.sweep.plan import Plan, Setting, Trial
from mtpeft.runs.sweep.pool import Resources, Train, open_ray, run_trials
from mtpeft.runs.sweep.results import Outcomes, write_sweep

LOCK = "sweep.lock"


def unfinished(trials: Sequence[Trial], path: Path) -> list[Trial]:
    """The runs without results; `ConfigError` where a folder holds a run of another recipe."""
    return [trial for trial in trials if not RunFolder(path / trial.folder, trial.recipe).complete]


def run_sweep(
    plan: Plan, path: Path, train: Train, resources: Resources, address: str | None, console: Console
) -> dict[str, Any] | None:
    """The content of sweep.json, which is written; None when Ctrl-C stopped it: the same sweep goes on.

    `train(recipe, folder)` runs one run in a worker process and returns its results, None when it was interrupted. Raises
    `ConfigError` where another process runs the sweep, folders hold other runs, or nothing can be chosen.
    """
    lock = Lock(path / LOCK, str(path))
    try:
        outcomes = Outcomes(path)
        settings: Sequence[Setting] = plan.settings
        for part in ("test",) if plan.select is None else ("validation", "test"):
            trials = plan.trials(part, settings)
            failed = _run(part, trials, path, train, resources, address, console)
            if failed is None:
                return None
            outcomes.add(trials, failed)
            if part == "validation":
                settings = outcomes.best(plan, part)
                if not settings:
                    raise ConfigError(_nothing(outcomes, trials))
        content = outcomes.collect(plan)
        write_sweep(path, content)
        return content
    finally:
        lock.release()


def _run(
    part: str,
    trials: Sequence[Trial],
    path: Path,
    train: Train,
    resources: Resources,
    address: str | None,
    console: Console,
) -> dict[str, str] | None:
    """Run those that are not finished; {folder: reason} of those that failed, None when interrupted."""
    open_trials = unfinished(trials, path)
    done = len(trials) - len(open_trials)
    text = {"validation": "runs measured on validation data", "test": "runs"}[part]
    console.print(f"{path}: {len(trials)} {text}" + (f", {done} finished already" if done else ""), soft_wrap=True)
    if not open_trials:
        return {}
    with open_ray(address, resources) as ray, interrupts() as stop, progress_bar(console) as progress:
        if console.is_terminal:
            progress.stage(text, len(open_trials))

        def told(trial: Trial, reason: str | None) -> None:
            progress.step()
            _tell(trial, reason, path, progress)

        return run_trials(ray, open_trials, path.resolve(), train, resources, lambda: bool(stop), told)


def _tell(trial: Trial, reason: str | None, path: Path, progress: Progress) -> None:
    if reason is not None:
        progress.message(f"{trial.folder}: failed: {reason}")
        return
    figure = figure_of(read_results(path / trial.folder / "results.json"))
    shown = "finished" if figure is None else f"{figure.title} {figure.value:.4g} {figure.unit}"
    progress.message(f"{trial.folder}: {shown.strip()}")


def _nothing(outcomes: Outcomes, trials: Sequence[Trial]) -> str:
    """Why no setting was chosen."""
    failed = [run for run in outcomes.of(trials) if run["reason"] is not None]
    if failed:
        return (
            f"no setting can be chosen: a run of each failed, {failed[0]['folder']} say: {failed[0]['reason']}; the same "
            "command tries them again"
        )
    return "no setting can be chosen: the runs have no one figure to compare (see key single_task)"
