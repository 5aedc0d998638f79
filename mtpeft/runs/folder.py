"""A run folder: config.py, log.jsonl, checkpoints/, results.json, report.html."""

from __future__ import annotations

import ast
import json
import os
import pprint
import shutil
import time
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.files import sha256, write_atomic
from mtpeft.runs.changes import LENGTHS, Change, allowed
from mtpeft.runs.state import State

_SEAL = "\n# SHA-256 of all above: "


class RunFolder:
    """The folder of one run.

    Opened with the resolved recipe: a folder of another recipe is refused, not overwritten. The recipe may differ from
    that of the folder as `mtpeft.runs.changes` says; `changes` are these differences. Nothing is written before `open`.
    """

    def __init__(self, path: str | Path, recipe: dict[str, Any], fresh: bool = False, writes: bool = True) -> None:
        """`fresh`: an earlier run of the same folder is removed by `open`.

        Of several processes the first one alone `writes`; in the others nothing is read either.
        """
        self.path, self.recipe, self.fresh, self.writes = Path(path), recipe, fresh, writes
        self.changes: list[Change] = []
        self.continued: list[dict[str, Any]] = []
        self.state = State(self.path / "checkpoints")  # what a run resumes from
        if not writes:
            return
        config = self.path / "config.py"
        if not config.exists() and self.path.exists() and any(self.path.iterdir()):
            raise ConfigError(f"{self.path} exists and is no run folder (it has no config.py); give another --out")
        if config.exists() and not fresh:
            known = _read(config, whole=True)
            self.changes = allowed(known["recipe"], recipe, str(self.path))
            self.continued = known.get("continued", [])

    def open(self) -> None:
        """Make the folder, where there is none or a fresh one is wanted."""
        if not self.writes:
            return
        config = self.path / "config.py"
        if self.fresh and config.exists():
            shutil.rmtree(self.path)
        self.fresh = False
        if not config.exists():
            self._write()

    def accept(self, step: int) -> None:
        """Make the changes those of the folder, noted as made after `step`; results of a shorter run are removed."""
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
        """What results.json says of changes: nothing without any; those of device and cache do not matter to results."""
        lines = [line for line in self.continued if line["key"].split(".")[0] not in ("device", "cache")]
        return {"continued": lines} if lines else {}

    def _write(self) -> None:
        recipe = pprint.pformat(self.recipe, width=100, sort_dicts=True)
        text = f'"""The resolved recipe of this run."""\n\nrecipe = {recipe}\n'
        if self.continued:
            text += f"\n# changes of a run that went on\ncontinued = {pprint.pformat(self.continued, width=100)}\n"
        write_atomic(self.path / "config.py", f"{text}{_SEAL}{sha256(text.encode())}\n")

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


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The resolved recipe of a run folder."""
    config = Path(path) / "config.py"
    if not config.is_file():
        raise ConfigError(f"{path} is no run folder: it has no config.py")
    recipe: dict[str, Any] = _read(config)["recipe"]
    return recipe


def _read(config: Path, whole: bool = False) -> dict[str, Any]:
    """The values config.py assigns; `whole`: only from a file that is as it was written, to the byte."""
    try:
        text, _, seal = config.read_bytes().rpartition(_SEAL.encode())
    except OSError:
        text, seal = b"", b""
    if whole and seal != f"{sha256(text)}\n".encode():
        raise ConfigError(
            f"{config.parent} cannot go on: its config.py differs from what the run wrote there; give another --out, or "
            "--fresh to discard it"
        )
    try:
        lines = [line for line in ast.parse(config.read_text(encoding="utf-8")).body if isinstance(line, ast.Assign)]
        found = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}  # type: ignore[attr-defined]
        if isinstance(found["recipe"], dict) and isinstance(found.get("continued", []), list):
            return found
    except (OSError, SyntaxError, ValueError, AttributeError, KeyError, TypeError, RecursionError, MemoryError):
        pass
    raise ConfigError(f"{config} is damaged; it should hold the resolved recipe")


def default_folder(recipe: dict[str, Any]) -> Path:
    """runs/NAME-seedN below the working directory (or below MTPEFT_RUNS)."""
    return Path(os.environ.get("MTPEFT_RUNS", "runs")) / f"{recipe['name']}-seed{recipe.get('seed', 0)}"
