"""What every method learns: the table of METHODS.md out of finished sweeps of the recipes `every_method_*`.

    mtpeft sweep every_method_digits --grid method=all --seeds 3
    python benchmarks/learned.py runs/every_method_digits-sweep runs/every_method_fashion-sweep ...

A method of a later sweep of the same recipe takes the place of an earlier one's (full fine-tuning at a rate of its own). What the
file holds of other recipes stays, and so do the remarks on methods that do worse than the linear probe, written by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mtpeft.cli.method_scores import FILE
from mtpeft.errors import ConfigError
from mtpeft.files import write_atomic
from mtpeft.methods import METHODS
from mtpeft.runs.changes import differences
from mtpeft.runs.recipe import load_recipe
from mtpeft.runs.sweep.every_method import every_method
from mtpeft.runs.sweep.grid import shown
from mtpeft.runs.sweep.results import read_sweep

#: the key that a sweep may have changed; sweep.json leaves out what a machine decides
RATE, MACHINE = "training.optimizer.lr", ("device", "visualizer", "name")


def command_of(sweep: dict[str, Any], folder: Path) -> str:
    """The command line of a sweep of methods, as a person would give it. Raises `ConfigError` where other keys were changed."""
    (axis,) = sweep["axes"]
    named = [value for value in axis["values"] if len(value) > 1]
    plain = [value["name"] for value in axis["values"] if len(value) == 1]
    every = len(plain) > 1 and plain == every_method(sweep["recipe"], {value["name"] for value in named})[0]
    given = ["all"] if every else plain
    given += [f"{{{', '.join(f'{key!r}: {value!r}' for key, value in options.items())}}}" for options in named]
    found = [c for c in differences(load_recipe(sweep["name"]), sweep["recipe"]) if c.key not in MACHINE]
    if other := [change.key for change in found if change.key != RATE]:
        raise ConfigError(f"{folder}: its sweep changed {', '.join(other)}; only {RATE} can be told")
    changed = "".join(f" --set {change.key}={change.new:g}" for change in found)
    values = f'--grid "method={",".join(given)}"{changed} --seeds {len(sweep["seeds"])}'
    return f"mtpeft sweep {sweep['name']} {values} --out runs/{folder.name}"


def main() -> None:
    """Read the sweeps and write the file they are shown from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders of finished sweeps, in the order of the columns")
    options = parser.parse_args()
    content = json.loads(FILE.read_text(encoding="utf-8"))
    tasks: dict[str, dict[str, Any]] = {}
    for folder in options.sweeps:
        sweep = read_sweep(folder)
        if len(sweep["axes"]) != 1:
            raise ConfigError(f"{folder}: a sweep of methods alone is shown, and this one has other axes")
        figure = {key: sweep["figure"][key] for key in ("title", "unit", "higher_is_better")}
        task = tasks.setdefault(sweep["name"], {"recipe": sweep["name"], **figure, "commands": [], "values": {}})
        task["commands"].append(command_of(sweep, folder))
        for setting in sweep["settings"]:
            found = [run["value"] for run in setting["test"]]
            if None in found:
                print(f"left out: {shown(setting['values'])}: {setting['test'][0]['reason']}")
                continue
            task["values"][setting["method"]] = [round(value, 4) for value in found]
    for task in tasks.values():
        task["values"] = {name: task["values"][name] for name in METHODS if name in task["values"]}
    kept = {task["recipe"]: task for task in content["tasks"]}
    content["tasks"] = list({**kept, **tasks}.values())
    write_atomic(FILE, json.dumps(content, indent=1) + "\n")
    print(f"written: {FILE}")


if __name__ == "__main__":
    main()
