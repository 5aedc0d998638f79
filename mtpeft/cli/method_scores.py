"""What each method learns on small tasks, by sweeps that `benchmarks/learned.py` reads: kept beside this file, for METHODS.md."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("method_scores.json")
#: what the others are compared with
PROBE = "linear_probe"


@dataclass(frozen=True)
class Learned:
    """One task: its recipe, the figure of its runs, the commands they are of, and {method: the values of its seeds}."""

    recipe: str
    title: str
    unit: str
    higher_is_better: bool
    commands: list[str]
    values: dict[str, list[float]]

    @property
    def head(self) -> str:
        """The title of its column."""
        return f"{self.recipe.removeprefix('every_method_')}, {self.title} [{self.unit}]{'' if self.higher_is_better else ' ↓'}"

    def shown(self, method: str) -> str:
        """Mean and standard deviation (n - 1) over the seeds; – where it was not run."""
        found = self.values.get(method)
        if not found:
            return "–"
        spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        return f"{statistics.fmean(found):.1f}{spread}"

    def worse(self, method: str) -> bool:
        """Whether its mean is worse than the linear probe's by more than both vary (or a hundredth of it, with one seed)."""
        probe, found = self.values.get(PROBE), self.values.get(method)
        if not probe or not found or method == PROBE:
            return False
        sign = 1 if self.higher_is_better else -1
        room = (
            statistics.stdev(probe) + statistics.stdev(found) if len(probe) > 1 and len(found) > 1 else 0.01 * probe[0]
        )
        return sign * (statistics.fmean(probe) - statistics.fmean(found)) > room


@functools.cache
def _content() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def learned() -> list[Learned]:
    """All tasks."""
    return [Learned(**task) for task in _content()["tasks"]]


def commands() -> Sequence[str]:
    """The commands whose runs they are."""
    return [command for task in learned() for command in task.commands]


def remarks() -> dict[str, str]:
    """{method: why it does worse than the linear probe}, as it was found out."""
    return dict(_content()["remarks"])
