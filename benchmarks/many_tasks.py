"""What the thousandth task costs against the first: adding, selecting, freezing, removing, loading; and a stream of tasks.

Adapters of every task's own on a small ViT of random weights. First a manager alone; then the continual engine over a
stream of tasks of two made-up classes, one step each, which saves its state after every one. Compared are the
last hundred tasks (a tenth of them, with fewer) with the first. Command:  python benchmarks/many_tasks.py [--tasks 1000]
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import arguments, goal, write

import mtpeft
from mtpeft.continual.experiment import Experiment
from mtpeft.data.sources import register_dataset
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress

BACKBONE = {"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 2, "patch_size": 8}}
SIDE = 32


class Noise:
    """`classes` classes of one random 32 x 32 image each, with noise that differs from sample to sample."""

    def __init__(self, classes: int, per_class: int, seed: int) -> None:
        centres = np.random.default_rng(0).integers(0, 256, (classes, 4, 4, 3))
        noise = np.random.default_rng(seed).normal(0, 20, (classes * per_class, SIDE, SIDE, 3))
        self.targets = [label for label in range(classes) for _ in range(per_class)]
        large = centres.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)
        self.data = np.clip(large[self.targets] + noise, 0, 255).astype(np.uint8)
        self.classes = [f"class {label}" for label in range(classes)]

    def __len__(self) -> int:
        return len(self.targets)


@register_dataset("Noise")
def noise(train: bool, classes: int, per_class: int = 4) -> Noise:
    """The two parts differ in their noise."""
    return Noise(classes, per_class, seed=1 if train else 2)


def ratio(values: Sequence[float], share: int) -> float:
    """Median of the last `share` values over that of the first."""
    return statistics.median(values[-share:]) / max(statistics.median(values[:share]), 1e-12)


def each(names: Sequence[str], call: Callable[[str], object]) -> list[float]:
    """Seconds of `call` for every name."""
    times = []
    for name in names:
        start = time.process_time()
        call(name)
        times.append(time.process_time() - start)
    return times


def manager_costs(tasks: int, share: int) -> dict[str, Any]:
    """Seconds of what a manager does for one task, and the ratio of the last tasks to the first."""
    torch.manual_seed(0)
    backbone = mtpeft.create_backbone(BACKBONE["name"], False, **BACKBONE["options"])
    manager = mtpeft.attach(backbone, "adaptformer", bottleneck_dim=8)
    names = [f"task {i}" for i in range(tasks)]
    image = torch.randn(4, 3, SIDE, SIDE)
    times = {"add": each(names, lambda name: manager.add_task(name, num_classes=2))}
    with torch.no_grad():
        times["forward of one task"] = each(names, lambda name: manager(image, name))
        mixed = [[names[(i + k) % tasks] for k in range(4)] for i in range(tasks)]
        times["forward of four tasks"] = each(names, lambda name: manager(image, mixed[names.index(name)]))
    times["freeze"] = each(names, manager.freeze_task)
    times["count"] = each(names, manager.num_trainable)
    folder = tempfile.mkdtemp()
    manager.save(folder)
    manager.detach()
    start = time.process_time()
    loaded = mtpeft.load(folder, backbone)
    loading = time.process_time() - start
    times["remove"] = each(names[::-1], loaded.remove_task)[::-1]
    rows = {what: {"median_ms": 1000 * statistics.median(t), "ratio": ratio(t, share)} for what, t in times.items()}
    return {"operations": rows, "add_all_s": sum(times["add"]), "load_all_s": loading}


def written(folder: Path) -> int:
    """Bytes in a folder and below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def stream_costs(tasks: int, share: int) -> dict[str, Any]:
    """Seconds, resident memory and bytes per task of a run of one step a task, and seconds until it goes on."""
    recipe = {
        "name": "many",
        "backbone": BACKBONE,
        "method": {"name": "adaptformer", "bottleneck_dim": 8},
        "stream": {
            "type": "task_incremental",
            "data": {"type": "Noise", "classes": 2 * tasks},
            "num_tasks": tasks,
        },
        "training": {"epochs": 1, "batch_size": 8, "optimizer": {"type": "AdamW", "lr": 1e-3}},
        "baselines": False,
    }
    seconds: list[float] = []
    memory: list[float] = []
    sizes: list[float] = []
    path = Path(tempfile.mkdtemp()) / "run"
    last = {"time": 0.0, "size": 0}

    def stage(text: str, steps: int) -> None:
        """Called as a task begins."""
        if not steps:
            return
        now, size = time.process_time(), written(path)
        if last["time"]:
            seconds.append(now - last["time"])
            sizes.append(size - last["size"])
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        last.update(time=time.process_time(), size=size)

    experiment = Experiment(recipe, Progress(stage=stage))
    folder = RunFolder(path, recipe)
    stopped = experiment.run(folder, lambda: experiment.position.experience == tasks - 1)
    assert stopped is None
    start = time.process_time()
    again = Experiment(recipe)
    built = time.process_time() - start
    reached = RunFolder(path, recipe)
    start = time.process_time()
    assert again.run(reached, lambda: True) is None
    return {
        "seconds_per_task": {"median": statistics.median(seconds), "ratio": ratio(seconds, share)},
        "bytes_per_task": {"median": statistics.median(sizes), "ratio": ratio(sizes, share)},
        "memory_mib": {"first": memory[0], "last": memory[-1], "ratio": ratio(memory, share)},
        "build_s": built,
        "resume_s": time.process_time() - start,
    }


def main() -> None:
    """Measure both and print the ratios."""
    parser = arguments("many_tasks", __doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    share = max(1, min(100, options.tasks // 10))
    manager, stream = manager_costs(options.tasks, share), stream_costs(options.tasks, share)
    for what, row in manager["operations"].items():
        print(f"{what:24} {row['median_ms']:9.3f} ms   last / first {row['ratio']:.3f}")
    print(f"all {options.tasks} added in {manager['add_all_s']:.1f} s, loaded in {manager['load_all_s']:.1f} s")
    for what in ("seconds_per_task", "bytes_per_task", "memory_mib"):
        print(what, stream[what])
    print(f"built in {stream['build_s']:.1f} s, goes on after {stream['resume_s']:.1f} s")
    goals = [
        goal(f"{k} of task {options.tasks} / first", stream[k]["ratio"], 1.2)
        for k in stream
        if k.endswith(("_task", "_mib"))
    ]
    write(options, {"manager": manager, "stream": stream, "goals": goals})


if __name__ == "__main__":
    main()
