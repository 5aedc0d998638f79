"""What every method learns: the table of METHODS.md out of finished sweeps of the recipes `every_method_*`.

    mtpeft sweep every_method_digits --grid method=all --seeds 3
    python benchmarks/learned.py runs/every_method_digits-sweep runs/every_method_fashion-sweep ...

A method of a later sweep of the same recipe takes the place of an earlier one's (full fine-tuning at a rate of its own). The
remarks on methods that do worse than the linear probe are written by hand, and stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mtpeft.cli.learned import FILE
from mtpeft.errors import ConfigError
from mtpeft.files import write_atomic
from mtpeft.methods import METHODS
from mtpeft.runs.sweep.grid import shown
from mtpeft.runs.sweep.results import read_sweep


def command_of(sweep: dict[str, Any]) -> str:
    """The command line of a sweep of methods, as a person would give it."""
    (axis,) = sweep["axes"]
    values = axis["values"]
    named = [value for value in values if len(value) > 1]
    plain = "all" if len(values) > 1 + len(named) else values[0]["name"]
    given = ",".join([plain, *(f"{{{', '.join(f'{k!r}: {v!r}' for k, v in value.items())}}}" for value in named)])
    rate = sweep["recipe"]["training"]["optimizer"]["lr"]
    alone = "" if plain == "all" else f" --set training.optimizer.lr={rate:g}"
    return f'mtpeft sweep {sweep["name"]} --grid "method={given}"{alone} --seeds {len(sweep["seeds"])}'


def main() -> None:
    """Read the sweeps and write the file they are shown from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders of finished sweeps, in the order of the columns")
    options = parser.parse_args()
    tasks: dict[str, dict[str, Any]] = {}
    commands = []
    for folder in options.sweeps:
        sweep = read_sweep(folder)
        if len(sweep["axes"]) != 1:
            raise ConfigError(f"{folder}: a sweep of methods alone is shown, and this one has other axes")
        commands.append(command_of(sweep))
        figure = {key: sweep["figure"][key] for key in ("title", "unit", "higher_is_better")}
        task = tasks.setdefault(sweep["name"], {"recipe": sweep["name"], **figure, "values": {}})
        for setting in sweep["settings"]:
            found = [run["value"] for run in setting["test"]]
            if None in found:
                print(f"left out: {shown(setting['values'])}: {setting['test'][0]['reason']}")
                continue
            task["values"][setting["method"]] = [round(value, 4) for value in found]
    for task in tasks.values():
        task["values"] = {name: task["values"][name] for name in METHODS if name in task["values"]}
    remarks = json.loads(FILE.read_text())["remarks"] if FILE.exists() else {}
    content = {"commands": commands, "tasks": list(tasks.values()), "remarks": remarks}
    write_atomic(FILE, json.dumps(content, indent=1) + "\n")
    print(f"written: {FILE}")


if __name__ == "__main__":
    main()
