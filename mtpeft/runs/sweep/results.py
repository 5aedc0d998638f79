"""sweep.json: what the runs of a sweep gave, in plain JSON under a seal; the same sweep gives the same bytes.

It holds no time and no path, whatever was interrupted or killed on the way:

    schema     1
    kind       "sweep"
    name       name of the recipe
    recipe     the resolved recipe, without the grid
    axes       list of {key, values}
    seeds      of every setting
    orders     seeds of the order of classes, or null
    select     validation data by which settings were chosen, {share, seed}, or null: all settings were tested
    figure     {title, unit, higher_is_better} of every `value`, or null when no run has one
    settings   list of {name, method, values, chosen, validation, test}: `chosen` is the best of its method, on the
               validation data or, without `select`, on the test part; `validation` and `test` are lists of runs
    run        {folder, seed, order, reason, value, tasks, weights}: `reason` why it failed, else null; `value` its figure,
               `tasks` the metric of each task at the end, `weights` those trained, heads not counted; null where it failed
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtpeft.errors import CheckpointError, DataError, MtpeftError
from mtpeft.evaluation.figure import figure_of, task_values, trained_weights
from mtpeft.evaluation.results import read as read_results
from mtpeft.evaluation.schema import ENTRY, FLAG, INTEGER, PLAIN, TEXT, Leaf, MapOf, check, one_of
from mtpeft.files import seal, unseal, write_atomic
from mtpeft.runs.folder import one_line
from mtpeft.runs.sweep.plan import Plan, Setting, Trial

FILE = "sweep.json"

_TEXT = Leaf("a text or null", lambda value: value is None or isinstance(value, str))
_WHOLE = Leaf("an integer or null", lambda value: value is None or INTEGER.accepts(value))
_RUN = {
    "folder": TEXT,
    "seed": INTEGER,
    "order": _WHOLE,
    "reason": _TEXT,
    "value": ENTRY,
    "tasks": MapOf(ENTRY),
    "weights": _WHOLE,
}
SWEEP: dict[str, Any] = {
    "schema": one_of(1),
    "kind": one_of("sweep"),
    "name": TEXT,
    "recipe": MapOf(PLAIN),
    "axes": [{"key": TEXT, "values": [PLAIN]}],
    "seeds": [INTEGER],
    "orders": PLAIN,
    "select": PLAIN,
    "figure": PLAIN,
    "settings": [
        {"name": TEXT, "method": TEXT, "values": MapOf(PLAIN), "chosen": FLAG, "validation": [_RUN], "test": [_RUN]}
    ],
}


class Outcomes:
    """What the runs of a sweep gave, as sweep.json says it; results are read once."""

    def __init__(self, path: Path) -> None:
        """`path` is the folder of the sweep."""
        self.path = path
        self.figure: dict[str, Any] | None = None
        self.runs: dict[str, dict[str, Any]] = {}

    def add(self, trials: Sequence[Trial], failed: Mapping[str, str]) -> None:
        """Runs that have ended, `failed` {folder: reason} of them without results."""
        for trial in trials:
            found: dict[str, Any] = {"reason": None, "value": None, "tasks": {}, "weights": None}
            try:
                if trial.folder in failed:
                    raise DataError(failed[trial.folder])
                found |= self._read(trial)
            except MtpeftError as error:
                found["reason"] = self._below(one_line(error))
            self.runs[trial.folder] = {"folder": trial.folder, "seed": trial.seed, "order": trial.order, **found}

    def _below(self, text: str) -> str:
        """Paths in the sweep's folder as they are below it, wherever that lies."""
        for path in (self.path.resolve(), self.path):
            text = text.replace(f"{path}{os.sep}", "")
        return text

    def _read(self, trial: Trial) -> dict[str, Any]:
        results = read_results(self.path / trial.folder / "results.json")
        figure = figure_of(results)
        found: dict[str, Any] = {"value": None, "tasks": task_values(results), "weights": trained_weights(results)}
        if figure is not None:
            kind = {"title": figure.title, "unit": figure.unit, "higher_is_better": figure.higher_is_better}
            self.figure = self.figure or kind
            found["value"] = figure.value if kind == self.figure else None
        return found

    def of(self, trials: Sequence[Trial]) -> list[dict[str, Any]]:
        """The runs among `trials` that were added."""
        return [self.runs[trial.folder] for trial in trials if trial.folder in self.runs]

    def best(self, plan: Plan, part: str) -> list[Setting]:
        """The setting of each method with the best mean over its runs, the first of equals.

        One of which a run failed, or has no figure, cannot be it.
        """
        found: dict[str, tuple[float, Setting]] = {}
        for setting in plan.settings:
            values = [run["value"] for run in self.of(getattr(setting, part))]
            if not values or any(value is None for value in values):
                continue
            assert self.figure is not None
            mean = statistics.fmean(values) * (1 if self.figure["higher_is_better"] else -1)
            if setting.method not in found or mean > found[setting.method][0]:
                found[setting.method] = mean, setting
        return [setting for _, setting in found.values()]

    def collect(self, plan: Plan) -> dict[str, Any]:
        """The content of sweep.json."""
        best = self.best(plan, "test" if plan.select is None else "validation")
        content = {
            "schema": 1,
            "kind": "sweep",
            "name": plan.name,
            "recipe": {key: value for key, value in plan.recipe.items() if key not in ("device", "visualizer")},
            "axes": [{"key": axis.key, "values": list(axis.values)} for axis in plan.axes],
            "seeds": list(plan.seeds),
            "orders": None if plan.orders is None else list(plan.orders),
            "select": plan.select,
            "figure": self.figure,
            "settings": [
                {
                    "name": setting.name,
                    "method": setting.method,
                    "values": setting.values,
                    "chosen": setting in best,
                    "validation": self.of(setting.validation),
                    "test": self.of(setting.test),
                }
                for setting in plan.settings
            ],
        }
        return json.loads(json.dumps(content))  # tuples are lists from here on


def write_sweep(path: Path, content: Mapping[str, Any]) -> None:
    """Write sweep.json into the folder, atomically."""
    check(content, SWEEP, "")
    write_atomic(path / FILE, seal(content, indent=1) + "\n")


def read_sweep(path: Path) -> dict[str, Any]:
    """The sweep.json of a folder. Raises `CheckpointError` where there is none, or one that is not as it was written."""
    file = path / FILE
    try:
        content = unseal(file.read_bytes().removesuffix(b"\n"), indent=1)
        check(content, SWEEP, "")
    except FileNotFoundError:
        raise CheckpointError(f"there is no {file}; it is written when the runs of a sweep have ended") from None
    except (OSError, ValueError, DataError) as error:
        raise CheckpointError(f"{file} is damaged: {error}; the command of the sweep writes it again") from None
    return content
