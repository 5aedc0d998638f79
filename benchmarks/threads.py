"""What waiting threads cost: a training step of a small model with threads that spin or sleep while they wait, or with one.

OpenMP's threads wait for each other at the end of every operator. They spin by default; `mtpeft` lets them sleep
(OMP_WAIT_POLICY=PASSIVE). The step is that of a LoRA on the embedded ViT with batches of 32, each case in a process of its own,
by turns: first as busy as the machine is, then beside one busy process for each core. The clock is wall time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any

from mtpeft.runs.threads import usable_cores

STEPS = 3
BUSY = "import numpy\na = numpy.ones((300, 300))\nwhile True: a @ a"


def work(threads: int) -> None:
    """In a process of its own: time `STEPS` steps for every line of the standard input."""
    import torch

    import mtpeft

    torch.set_num_threads(threads)
    manager = mtpeft.attach(mtpeft.create_backbone("vit_mini_patch4_32", pretrained=False), "lora", rank=8)
    manager.add_task("task", num_classes=10)
    manager.train()
    images, labels = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    optimizer = torch.optim.AdamW([p for _, p in manager.trainable_parameters()], lr=1e-3)

    def steps() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(manager(images, "task"), labels).backward()
            optimizer.step()
        return (time.perf_counter() - start) / STEPS

    steps()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(steps(), flush=True)


def start(threads: int, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A process that `work`s, once it is ready."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--worker", str(threads)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env={**kept, **environment}, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def ask(process: subprocess.Popen[str]) -> float:
    """Seconds of a step, now."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    """Time all cases without and with load."""
    from _common import arguments, goal, show, write

    parser = arguments("threads", __doc__)
    parser.set_defaults(threads=usable_cores())
    options = parser.parse_args()
    cases = {
        "spinning": (options.threads, {"OMP_WAIT_POLICY": "ACTIVE"}),
        "by default": (options.threads, {}),
        "asleep": (options.threads, {"OMP_WAIT_POLICY": "PASSIVE"}),
        "one thread": (1, {}),
    }
    workers = {name: start(*case) for name, case in cases.items()}
    times: dict[str, dict[str, Any]] = {name: {} for name in cases}
    for load, processes in (("as it is", 0), ("busy", usable_cores())):
        one = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        busy = [subprocess.Popen([sys.executable, "-c", BUSY], env=one) for _ in range(processes)]
        try:
            found = [{name: ask(worker) for name, worker in workers.items()} for _ in range(options.repeats)]
        finally:
            for process in busy:
                process.kill()
        for name in cases:
            times[name][load] = 1000 * statistics.median(row[name] for row in found)
            times[name][f"{load}, x one thread"] = statistics.median(row[name] / row["one thread"] for row in found)
    for worker in workers.values():
        worker.kill()
    columns = tuple(times["asleep"])
    show(f"{options.threads} threads, training step [ms]", {n: tuple(v.values()) for n, v in times.items()}, columns)
    goals = [goal("asleep beside other work / one thread", times["asleep"]["busy, x one thread"], 1.2)]
    write(options, {"times": times, "goals": goals})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(int(sys.argv[2]))
    else:
        main()
