"""A run folder: config.py, log.jsonl, checkpoints/, results.json, report.html."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.runs.changes import LENGTHS, Change, allowed
from mtpeft.runs.config_file import CONFIG, read_config, read_recipe, write_config
from mtpeft.runs.lock import TRAINING, Lock
from mtpeft.runs.state import State

__all__ = ["RunFolder", "default_folder", "one_line", "read_recipe"]


class RunFolder:
    """The folder of one run.

    Opened with the resolved recipe: a folder of another recipe is refused, not overwritten. The recipe may differ from
    that of the folder as `mtpeft.runs.changes` says; `changes` are these differences. Nothing is written before `open`.
    From `open`, or from `saved` where there is a run already, the folder belongs to this process alone.
    """

    def __init__(self, path: str | Path, recipe: dict[str, Any], fresh: bool = False, writes: bool = True) -> None:
        """`fresh`: an earlier run of the same folder is removed by `open`.

        Of several processes the first one alone `writes`; in the others nothing is read either.
        """
        self.path, self.recipe, self.fresh, self.writes = Path(path), recipe, fresh, writes
        self.changes: list[Change] = []
        self.continued: list[dict[str, Any]] = []
        self.state = State(self.path / "checkpoints")  # what a run resumes from
        self._lock: Lock | None = None
        self._goes_on = False  # whether this session has begun to train
        if not writes:
            return
        config = self.path / CONFIG
        if not config.exists() and self.path.exists() and any(self.path.iterdir()):
            raise ConfigError(f"{self.path} exists and is no run folder (it has no config.py); give another --out")
        if config.exists() and not fresh:
            known = read_config(config, whole=True)
            self.changes = allowed(known["recipe"], recipe, str(self.path))
            self.continued = known.get("continued", [])

    def saved(self) -> dict[str, Any] | None:
        """The state to go on from, None when there is none; `ConfigError` when another process is at work on it."""
        if not self.writes or self.fresh or not (self.path / CONFIG).exists():
            return None
        self._claim()
        return self.state.read()

    def open(self) -> None:
        """Make the folder, where there is none or a fresh one is wanted."""
        if not self.writes:
            return
        config = self.path / CONFIG
        if self.fresh and config.exists():
            self._claim()
            shutil.rmtree(self.path)
            self._release()
        self.fresh = False
        if not config.exists():
            self._write()
        self._claim()

    def _claim(self) -> None:
        if self._lock is None:
            self._lock = Lock(self.path / TRAINING, str(self.path))

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextmanager
    def session(self) -> Iterator[None]:
        """The folder is given back at the end; an error that stops a run is noted in its log."""
        try:
            yield
        except Exception as error:
            if self._lock is not None and self._goes_on and (self.path / CONFIG).is_file():
                unexpected = {} if isinstance(error, MtpeftError) else {"traceback": traceback.format_exc()}
                self.log("failed", reason=one_line(error), **unexpected)
            raise
        finally:
            self._release()

    def accept(self, step: int) -> None:
        """Make the changes those of the folder, noted as made after `step`; results of a shorter run are removed.

        From here on the run goes on; before, an error is a refusal that leaves the folder as it was.
        """
        self._goes_on = True
        if not self.changes:
            return
        lines = [{"step": step, "key": c.key, "old": c.old, "new": c.new} for c in self.changes]
        self.continued = [*self.continued, *lines]
        if self.longer:
            for file in (self.results, self.report):
                file.unlink(missing_ok=True)
        self._write()
        for line in lines:
            self.log("change", **line)
        self.changes = []

    @property
    def longer(self) -> list[Change]:
        """The changes that make the run longer."""
        return [change for change in self.changes if change.key in LENGTHS]

    @property
    def told(self) -> list[str]:
        """What is said of a run that goes on for longer."""
        return [f"{c.key} is now {c.new}: the learning rate follows the schedule of the new total" for c in self.longer]

    @property
    def complete(self) -> bool:
        """Whether there are results, and nothing is to be added to them."""
        return self.writes and not self.fresh and self.results.is_file() and not self.longer

    @property
    def facts(self) -> dict[str, Any]:
        """What results.json says of changes: nothing without any; those of device, cache and logs do not matter to results."""
        lines = [line for line in self.continued if line["key"].split(".")[0] not in ("device", "cache", "visualizer")]
        return {"continued": lines} if lines else {}

    def _write(self) -> None:
        write_config(self.path, self.recipe, self.continued)

    @property
    def results(self) -> Path:
        """The results file, there once the run is complete."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """The report, there once the run is complete."""
        return self.path / "report.html"

    def log(self, event: str, **values: Any) -> None:
        """Append one line to log.jsonl."""
        if not self.writes:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        try:
            with open(self.path / "log.jsonl", "a") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise MtpeftError(f"cannot write {self.path / 'log.jsonl'}: {error.strerror}") from None


def default_folder(recipe: dict[str, Any]) -> Path:
    """runs/NAME-seedN below the working directory (or below MTPEFT_RUNS)."""
    return Path(os.environ.get("MTPEFT_RUNS", "runs")) / f"{recipe['name']}-seed{recipe.get('seed', 0)}"


def one_line(error: Exception) -> str:
    """What an error says, in one line; one that is no message to a user has its kind in front."""
    text = " ".join(str(error).split())
    return text if isinstance(error, MtpeftError) else f"{type(error).__name__}: {text}"
