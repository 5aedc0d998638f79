"""What run folders hold, without building anything: recipe, state, figure, duration. For `mtpeft ls` and `mtpeft diff`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.evaluation.figure import Figure, figure_of
from mtpeft.evaluation.results import read as read_results
from mtpeft.runs.changes import flatten
from mtpeft.runs.config_file import CONFIG, read_config
from mtpeft.runs.lock import TRAINING, locked


@dataclass(frozen=True)
class Overview:
    """One run. `state` is finished, running, interrupted, failed or damaged; `detail` where it stands, or what is wrong.

    `seconds` are those of all sessions together, None where the log says nothing.
    """

    folder: str
    state: str
    detail: str
    recipe: str
    seed: int | None
    figure: Figure | None
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def run_folders(path: Path) -> list[Path]:
    """The folders below `path`, itself among them, that hold a config.py, in the order of their names."""
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}")
    found = [Path(place) for place, _, files in os.walk(path) if CONFIG in files]
    return sorted(found)


def overview(path: Path, name: str) -> Overview:
    """What is known of the run in `path`, called `name`; a damaged one is said to be damaged, nothing is raised."""
    events = list(_events(path / "log.jsonl"))
    seconds = _seconds(events)
    try:
        recipe = read_config(path / CONFIG)["recipe"]
        known = str(recipe.get("name", "")), recipe.get("seed", 0)
    except MtpeftError as error:
        return Overview(name, "damaged", _short(error, path), "", None, None, seconds)
    try:
        if (path / "results.json").is_file():
            return Overview(name, "finished", "", *known, figure_of(read_results(path / "results.json")), seconds)
    except MtpeftError as error:
        return Overview(name, "damaged", _short(error, path), *known, None, seconds)
    last = next((event for event in reversed(events) if event["event"] != "change"), None)
    if locked(path / TRAINING):
        return Overview(name, "running", _position(events), *known, None, seconds)
    if last is not None and last["event"] == "failed":
        return Overview(name, "failed", str(last.get("reason", "")), *known, None, seconds)
    return Overview(name, "interrupted", _position(events), *known, None, seconds)


def _events(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log that can be read."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event and isinstance(event.get("time"), (int, float)):
            yield event


def _seconds(events: list[dict[str, Any]]) -> float | None:
    """From the first to the last event of every session."""
    sessions: list[list[float]] = []
    for event in events:
        if event["event"] in ("start", "resume") or not sessions:
            sessions.append([])
        sessions[-1].append(event["time"])
    return round(sum(times[-1] - times[0] for times in sessions), 1) if events else None


def _position(events: list[dict[str, Any]]) -> str:
    """Where the last checkpoint stands."""
    saved = next((event for event in reversed(events) if event["event"] == "checkpoint"), None)
    try:
        if saved is None:
            return "before its first checkpoint"
        if "experience" in saved:
            task = min(saved["experience"] + 1, saved["tasks"])
            return f"at task {task} of {saved['tasks']}, epoch {saved['epoch'] + 1} of {saved['epochs']}"
        return f"at step {saved['step']}" + (f" of {saved['steps']}" if "steps" in saved else "")
    except (KeyError, TypeError):
        return "at a checkpoint its log does not describe"


def _short(error: Exception, path: Path) -> str:
    return " ".join(str(error).split()).replace(f"{path}{os.sep}", "").partition(";")[0]


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value in `old`, value in `new`) of the dotted keys that differ; `...` for one that is not given."""
    before, after = flatten(old), flatten(new)
    keys = sorted({*before, *after})
    pairs = [(key, before.get(key, ...), after.get(key, ...)) for key in keys]
    return [pair for pair in pairs if pair[1] is ... or pair[2] is ... or pair[1] != pair[2]]
