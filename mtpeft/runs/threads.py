"""How many threads torch uses where a recipe does not say: the processor's cores, shared fairly with those beside it.

Cores are those this process may use: the scheduler's affinity and a container's quota both limit them. Processes that torchrun
started share them, and processes that read data have theirs. What the environment says of OMP_NUM_THREADS holds, other
than the 1 that torchrun itself writes there. The number depends on the machine and the recipe, never on how busy it is:
sums are split by threads, and a run that goes on has to give the same results.
"""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def wait_asleep() -> None:
    """Let threads that wait for others sleep, where the environment says nothing else; call before torch is imported.

    OpenMP's threads spin at the end of each operator until the last one is done. Beside other work the last one may have no
    core, and those that spin keep it: a step of a small model on two busy cores took seven times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def set_threads(asked: int, workers: int) -> None:
    """Use `asked` threads, or those that suit the machine (0), beside `workers` processes that read data."""
    import torch  # not above: `mtpeft doctor` counts cores without it

    number = asked or suitable_threads(workers)
    if number and number != torch.get_num_threads():
        torch.set_num_threads(number)


def suitable_threads(workers: int = 0) -> int:
    """Threads for this process; 0 where OMP_NUM_THREADS has said so already."""
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    given = os.environ.get("OMP_NUM_THREADS")
    by_torchrun = given == "1" and processes > 1 and "TORCHELASTIC_RUN_ID" in os.environ
    if given and not by_torchrun:
        return 0
    return max(1, usable_cores() // processes - workers)


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores this process may use: at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(_quota(cgroup) or cores)))


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of time that a container gets, by version 2 or 1 of cgroups; None without a limit."""
    try:
        if (file := cgroup / "cpu.max").is_file():
            limit, period = file.read_text().split()[:2]
        else:
            limit, period = ((cgroup / "cpu" / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        return int(limit) / int(period) if limit != "max" and int(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
