"""What the benchmarks share: interleaved timing, ratios within one run, arguments, and the JSON they write."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from mtpeft import __version__
from mtpeft.files import write_atomic

RESULTS = Path(__file__).parent / "results"
Times = dict[str, list[float]]


def arguments(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options every benchmark has; `name` names the default result file."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="torch.set_num_threads")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; each runs every case once")
    parser.add_argument("--json", type=Path, default=RESULTS / f"{name}.json", help="where the figures go")
    return parser


def clock(threads: int) -> Callable[[], float]:
    """CPU time of this process with one thread, which other programs do not lengthen; else wall time."""
    return time.process_time if threads == 1 else time.perf_counter


def interleave(cases: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1) -> Times:
    """Seconds of every case: A B C A B C ..., so that a slow minute of the machine slows all of them alike.

    The order is turned by one in each round, so that no case always follows the same one.
    """
    now, names = clock(torch.get_num_threads()), list(cases)
    times: Times = {name: [] for name in names}
    for _ in range(warmup):
        for name in names:
            cases[name]()
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = now()
            cases[name]()
            times[name].append(now() - start)
    return times


def ratio(times: Times, case: str, reference: str) -> float:
    """Median over the rounds of case / reference, each pair from the same round."""
    return statistics.median(a / b for a, b in zip(times[case], times[reference], strict=True))


def milliseconds(times: Times) -> dict[str, float]:
    """Median of every case in milliseconds."""
    return {name: round(1000 * statistics.median(values), 3) for name, values in times.items()}


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "mtpeft": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "clock": "process CPU time" if options.threads == 1 else "wall time",
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "json"},
    }


def write(options: argparse.Namespace, results: Mapping[str, Any]) -> None:
    """Write the environment and the results as JSON."""
    write_atomic(options.json, json.dumps({"environment": environment(options), **results}, indent=1) + "\n")
    print(f"written: {options.json}")


def show(title: str, rows: Mapping[str, tuple[float, ...]], columns: tuple[str, ...]) -> None:
    """Print one table; numbers with three decimals."""
    print(f"\n{title}\n{'':40}" + "".join(f"{column:>18}" for column in columns))
    for name, values in rows.items():
        print(f"{name:40}" + "".join(f"{value:18.3f}" for value in values))


def goal(text: str, value: float, limit: float) -> dict[str, Any]:
    """Print whether a goal is met, and give it as plain types."""
    met = value <= limit
    print(f"goal {text} <= {limit}: {value:.3f} {'met' if met else 'MISSED'}")
    return {"goal": text, "limit": limit, "value": round(value, 4), "met": met}


def wake(module: nn.Module) -> None:
    """Give zero-initialised weights values, so that no method is measured in a state training leaves at once."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.02)
