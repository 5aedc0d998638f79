"""What each method was measured to cost, by `benchmarks/methods.py`: kept beside this file, shown by `mtpeft methods`."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("method_costs.json")


@dataclass(frozen=True)
class Cost:
    """One figure of a method: a short title, what it means, and how it is written."""

    title: str
    meaning: str
    form: str = ".2f"

    def shown(self, value: float | bool | None) -> str:
        """The figure as text; – for one that there is not."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        return "–" if value is None else format(value, self.form)


COSTS = {
    "activations": Cost("activations", "bytes kept for backward by one more image, x those of `lora`"),
    "flops": Cost("FLOPs", "of one image, x the plain backbone's"),
    "inference": Cost("inference", "time of a forward pass, x the plain backbone's"),
    "step": Cost("step", "time of a training step, x that of `lora`"),
    "gradient": Cost("gradient", "whether a gradient flows through the backbone's blocks"),
    "merge": Cost(
        "merge", "largest difference of a merged model's outputs, in float64, as a share of the largest output", ".0e"
    ),
}


@functools.cache
def _measurements() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def circumstances() -> str:
    """On what all of it was measured, in a sentence."""
    return str(_measurements()["circumstances"])


def measured(name: str) -> dict[str, float | bool | None] | None:
    """{key of `COSTS`: its figure} of a method, None for one that was not measured."""
    found: dict[str, float | bool | None] | None = _measurements()["methods"].get(name)
    return found
