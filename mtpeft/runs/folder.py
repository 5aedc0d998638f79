"""A run folder: config.py, log.jsonl, checkpoints/, results.json, report.html."""

from __future__ import annotations

import json
import os
import pprint
import shutil
import time
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.files import write_atomic
from mtpeft.runs.state import State


class RunFolder:
    """The folder of one run. Opened with the resolved recipe: a folder of another recipe is refused, not overwritten."""

    def __init__(self, path: str | Path, recipe: dict[str, Any], fresh: bool = False) -> None:
        """Create or reopen. `fresh` removes an earlier run of the same folder first."""
        self.path = Path(path)
        text = (
            f'"""The resolved recipe of this run."""\n\nrecipe = {pprint.pformat(recipe, width=100, sort_dicts=True)}\n'
        )
        config = self.path / "config.py"
        if fresh and config.exists():
            shutil.rmtree(self.path)
        if config.exists() and config.read_bytes() != text.encode():
            raise ConfigError(
                f"{self.path} holds a run of another recipe (its config.py differs); give another --out, or --fresh to discard it"
            )
        if not config.exists() and self.path.exists() and any(self.path.iterdir()):
            raise ConfigError(f"{self.path} exists and is no run folder (it has no config.py); give another --out")
        write_atomic(config, text)
        self.state = State(self.path / "checkpoints")  # what a run resumes from

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
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        try:
            with open(self.path / "log.jsonl", "a") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise MtpeftError(f"cannot write {self.path / 'log.jsonl'}: {error.strerror}") from None


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The resolved recipe of a run folder."""
    import ast

    config = Path(path) / "config.py"
    if not config.is_file():
        raise ConfigError(f"{path} is no run folder: it has no config.py")
    try:
        tree = ast.parse(config.read_text(encoding="utf-8"))
        recipe = ast.literal_eval(tree.body[-1].value)  # type: ignore[attr-defined]
    except (OSError, SyntaxError, ValueError, AttributeError, IndexError, TypeError, RecursionError, MemoryError):
        recipe = None
    if not isinstance(recipe, dict):
        raise ConfigError(f"{config} is damaged; it should hold the resolved recipe")
    return recipe


def default_folder(recipe: dict[str, Any]) -> Path:
    """runs/NAME-seedN below the working directory (or below MTPEFT_RUNS)."""
    return Path(os.environ.get("MTPEFT_RUNS", "runs")) / f"{recipe['name']}-seed{recipe.get('seed', 0)}"
