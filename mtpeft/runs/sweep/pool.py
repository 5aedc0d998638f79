"""Runs side by side in the worker processes of Ray, on this machine or on a cluster.

A worker that dies takes one run with it, which is started once more and goes on from its checkpoint. A run that fails is
named; the others go on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError
from mtpeft.runs.folder import one_line
from mtpeft.runs.sweep.plan import Trial

#: bytes of Ray's own store on this machine, near its least: results are files, hardly anything passes through it
STORE = 100 * 2**20
#: times a run whose worker process dies is started
STARTS = 2

Train = Callable[[dict[str, Any], Path], dict[str, Any] | None]


@dataclass(frozen=True)
class Resources:
    """`cpus` are threads of a run, `gpus` its share of devices; at most `parallel` runs at a time, None for all that fit."""

    cpus: int = 1
    gpus: float = 0.0
    parallel: int | None = None


def check_installed() -> None:
    """Raise `ConfigError` where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("a sweep needs Ray: pip install 'mtpeft[ray]'")


@contextlib.contextmanager
def open_ray(address: str | None, resources: Resources) -> Iterator[Any]:
    """Ray, for as long as the context is open: a cluster by its address, else processes of this machine.

    Raises `ConfigError` where it is not installed, cannot be reached, or no machine of it has what one run asks for.
    """
    check_installed()
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # `_work` does it
    local: dict[str, Any] = (
        {"include_dashboard": False, "object_store_memory": STORE} if address is None else {"address": address}
    )
    with contextlib.redirect_stdout(sys.stderr):  # what Ray says of dead workers is no output of ours
        try:
            ray.init(**local, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # whatever a network gives
            where = "cannot start" if address is None else f"cannot reach {address}"
            raise ConfigError(f"Ray {where}: {one_line(error).partition('. ')[0]}") from None
        try:
            _check_room(ray, resources)
            yield ray
        finally:
            ray.shutdown()


def _check_room(ray: Any, resources: Resources) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(n.get("CPU", 0) >= resources.cpus and n.get("GPU", 0) >= resources.gpus for n in nodes):
        return
    most = {kind: max((int(node.get(kind, 0)) for node in nodes), default=0) for kind in ("CPU", "GPU")}
    raise ConfigError(
        f"a run asks for {resources.cpus} CPUs and {resources.gpus:g} GPUs (--cpus, --gpus); Ray has machines of up to "
        f"{most['CPU']} CPUs and {most['GPU']} GPUs"
    )


def run_trials(
    ray: Any,
    trials: Sequence[Trial],
    path: Path,
    train: Train,
    resources: Resources,
    stop: Callable[[], bool],
    told: Callable[[Trial, str | None], None],
) -> dict[str, str] | None:
    """Run all of them by `train(recipe, folder)`; {folder: reason} of those that failed, None when `stop` said to stop.

    `told(trial, reason)` is called as each ends, with None for one that finished. To stop, runs save their states first.
    """
    work = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)(_work)
    waiting, starts = list(trials), dict.fromkeys((trial.folder for trial in trials), 0)
    running: dict[Any, Trial] = {}
    failed: dict[str, str] = {}
    interrupted = stopping = False
    while running or (waiting and not stopping):
        while waiting and not stopping and len(running) < (resources.parallel or len(trials)):
            trial = waiting.pop(0)
            starts[trial.folder] += 1
            running[work.remote(train, trial.recipe, path / trial.folder, resources, os.getcwd())] = trial
        for reference in ray.wait(list(running), num_returns=1, timeout=0.5)[0]:
            trial = running.pop(reference)
            reason = _outcome(ray, reference)
            if reason == DIED and starts[trial.folder] < STARTS and not stopping:
                waiting.insert(0, trial)
            elif reason == STOPPED:
                interrupted = True
            else:
                if reason is not None:
                    failed[trial.folder] = reason
                told(trial, reason)
        if (interrupted or stop()) and not stopping:
            stopping = True
            for reference in running:
                ray.cancel(reference)  # Ctrl-C in the worker
    return None if stopping else failed


DIED = f"its process died, {STARTS} times (killed, or out of memory?)"
STOPPED = "stopped"


def _outcome(ray: Any, reference: Any) -> str | None:
    """Why a run failed, None where it finished."""
    try:
        reason: str | None = ray.get(reference)
    except (ray.exceptions.TaskCancelledError, KeyboardInterrupt):
        return STOPPED
    except ray.exceptions.RayTaskError as error:  # it could not begin: mtpeft is not there, or another one
        return str(error).strip().splitlines()[-1]
    except ray.exceptions.RayError:
        return DIED
    return reason


def _work(train: Train, recipe: dict[str, Any], folder: Path, resources: Resources, here: str) -> str | None:
    """One run, in a worker process; why it failed, None where it finished."""
    os.environ["OMP_NUM_THREADS"] = str(resources.cpus)
    if not resources.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if os.path.isdir(here):  # paths in a recipe are seen from where the command was given
        os.chdir(here)
    import torch

    torch.set_num_threads(resources.cpus)
    try:
        return STOPPED if train(recipe, folder) is None else None
    except Exception as error:  # the others go on; its log has the traceback
        return one_line(error)
