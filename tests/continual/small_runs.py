"""Runs a small continual recipe, to its end or until its process "dies"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtpeft.continual.experiment import Experiment
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is saved on its way."""


def train(recipe: dict[str, Any], folder: Path, kill_at: int | None = None) -> tuple[Experiment, dict[str, Any] | None]:
    """Run a recipe in `folder`, to the end or until the process "dies" after optimiser step `kill_at`."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise Killed

    experiment, place = Experiment(recipe, Progress(step=step)), RunFolder(folder, recipe)
    try:
        with place.session():  # gives the folder back, as the end of a process does
            return experiment, experiment.run(place)
    except Killed:
        return experiment, None
