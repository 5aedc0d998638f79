"""How often a training step waits for the GPU: calls that torch's sync debug mode warns of, between two steps of each engine.

The loss is read every `--log-every` steps, by one such call; all other steps should have none. Without a GPU there is nothing
to count. Each engine as it is, with clipping, and in float16 with its scaler.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _common import arguments, goal, show, write
from _engines import ENGINES, recipe, run


def count(values: dict[str, Any], steps: int) -> list[int]:
    """Synchronising calls of every step but the first two, which warm up."""
    found: list[int] = []
    seen: list[warnings.WarningMessage] = []

    def begin(experiment: Any) -> Callable[[], None]:
        def after() -> None:
            found.append(sum("synchronizing" in str(warning.message) for warning in seen))
            seen.clear()
            torch.cuda.set_sync_debug_mode("warn")

        return after

    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seen = caught
            run(values, steps, begin)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return found[2:]


def main() -> None:
    """Count, and print the most a step has beside those that read the loss."""
    parser = arguments("host_syncs", __doc__)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm name; random weights")
    parser.add_argument("--size", type=int, default=224, help="height and width of its images")
    parser.add_argument("--batch", type=int, default=16, help="images")
    parser.add_argument("--steps", type=int, default=22, help="steps")
    parser.add_argument("--log-every", type=int, default=10, help="steps between two readings of the loss")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here that torch can use: nothing to count")
        sys.exit(0)
    cases = {
        f"{engine}, {name}": recipe(engine, options, log_every=options.log_every, **training)
        for engine in ENGINES
        for name, training in {"float32": {}, "clip": {"clip": 1.0}, "float16": {"amp": "float16"}}.items()
    }
    rows, goals = {}, []
    for name, values in cases.items():
        calls = count(values, options.steps)
        quiet = [n for step, n in enumerate(calls, 3) if step % options.log_every]
        rows[name] = (sum(calls) / len(calls), float(max(quiet)))
        goals.append(goal(f"{name}, calls that wait in a step that reads nothing", max(quiet), 0))
    show(f"{options.model}, {torch.cuda.get_device_name()}", rows, ("per step", "most, no reading"))
    write(options, {"calls": rows, "goals": goals})


if __name__ == "__main__":
    main()
