"""Twelve short runs, swept twice: undisturbed, and with the driver killed and later a worker, each by SIGKILL.

The killed sweep is started again by the same command, and ends with the same sweep.json and the same page, byte for byte.
Command:  python benchmarks/sweep_kills.py [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RECIPE = '''
"""Two tasks of digits on a two-block ViT of random weights."""
seed = 0
backbone = dict(name="vit_mini_patch4_32", pretrained=False, options=dict(depth=2, patch_size=8))
method = dict(name="lora", rank=4)
sharing = "shared"
stream = dict(type="task_incremental", data=dict(type="Digits"), num_tasks=2, train_per_class=12, test_per_class=8)
training = dict(epochs=1, batch_size=4, optimizer=dict(type="AdamW", lr=1e-3))
checkpoint = dict(interval=1)
baselines = False
'''
GRID = ["--grid", "method=lora,ssf", "--grid", "training.optimizer.lr=1e-3,3e-3", "--seeds", "3"]
RUNS = 12


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    """The sweep, in a session of its own as a shell would start it."""
    command = [
        sys.executable,
        "-m",
        "mtpeft.cli.main",
        "sweep",
        str(recipe),
        *GRID,
        "--parallel",
        "2",
        "--out",
        str(out),
    ]
    log = open(out.with_suffix(".log"), "ab")  # noqa: SIM115
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def wait_for(what: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
    """Until `what` is the case; the sweep must not end before."""
    while not what():
        if driver.poll() is not None:
            raise RuntimeError(f"the sweep ended (exit code {driver.returncode}) before it could be disturbed")
        time.sleep(0.05)


def finished(out: Path) -> int:
    """Runs with results."""
    return len(list(out.glob("*/results.json")))


def workers(out: Path) -> list[int]:
    """The processes at work on runs of the sweep that have a checkpoint: they hold the locks of their folders."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            held = [Path(os.readlink(file)) for file in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(file.name == "lock" and out in file.parents and (file.parent / "state.json").exists() for file in held):
            found.append(int(process.name))
    return found


def disturbed(recipe: Path, out: Path) -> int:
    """Kill the driver after two runs, and a worker in the middle of one after five; the exit code of the last command."""
    driver = start(recipe, out)
    wait_for(lambda: finished(out) >= 2, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    print(f"driver killed after {finished(out)} runs", flush=True)
    driver = start(recipe, out)
    victims: list[int] = []
    wait_for(lambda: finished(out) >= 5 and bool(victims.extend(workers(out)) or victims), driver)
    os.kill(victims[0], signal.SIGKILL)
    print(f"worker killed after {finished(out)} runs", flush=True)
    return driver.wait()


def main() -> int:
    """0 when both sweeps ended the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where both go (default: a temporary folder)")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as nowhere:
        root = (folder or Path(nowhere)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        recipe = root / "digits.py"
        recipe.write_text(RECIPE)
        codes = [start(recipe, root / "whole").wait(), disturbed(recipe, root / "killed")]
        names = ("sweep.json", "report.html")
        same = [(root / "whole" / name).read_bytes() == (root / "killed" / name).read_bytes() for name in names]
        runs = [finished(root / name) for name in ("whole", "killed")]
    print(f"exit codes {codes}, runs {runs}; the same bytes: {dict(zip(names, same, strict=True))}")
    return 0 if codes == [0, 0] and runs == [RUNS, RUNS] and all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
