"""A training step of each engine against a loop written by hand: same model, data and optimiser.

All train a shared LoRA on ViT-Tiny at 224 pixels with batches of 32, images of Fashion-MNIST in the continual engine, noise
with classes per pixel in the joint one. Steps of engine and loop take turns in one process, so that the ratio holds on a
busy machine. Both read the loss every `--log-every` steps.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _common import arguments, clock, goal, show, write
from _engines import ENGINES, recipe, run
from torch.nn import functional as F


def continual_batches(experiment: Any, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels of the first task."""
    images = experiment.stream[0].train
    order = torch.randperm(len(images)).tolist()
    for start in itertools.count(0, batch):
        yield images.batch([order[(start + i) % len(order)] for i in range(batch)])


def joint_batches(experiment: Any, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels."""
    while True:
        for found in experiment.data.batches("train", 0, range(len(experiment.data.train[0])), batch):
            yield found["images"], found["labels"]["semseg"][1]


def by_hand(experiment: Any, batch: int, log_every: int) -> Callable[[], None]:
    """A step as one would write it for this model and data."""
    manager, device = experiment.manager, experiment.device
    joint = hasattr(experiment, "data")
    task = manager.tasks[0]
    optimizer = torch.optim.AdamW([p for _, p in manager.trainable_parameters()], lr=1e-3)
    batches, done = (joint_batches if joint else continual_batches)(experiment, batch), itertools.count(1)

    def step() -> None:
        x, y = next(batches)
        output = manager(x.to(device, non_blocking=True), task)
        loss = F.cross_entropy(output, y.long().to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if next(done) % log_every == 0:
            loss.item()

    return step


def measure(engine: str, options: Any) -> tuple[list[float], list[float]]:
    """Seconds of every step of the engine, and of the loop."""
    times: tuple[list[float], list[float]] = ([], [])
    now = clock(options.threads)

    def begin(experiment: Any) -> Callable[[], None]:
        hand, last = by_hand(experiment, options.batch, options.log_every), [now()]

        def after() -> None:
            times[0].append(now() - last[0])
            start = now()
            hand()
            times[1].append(now() - start)
            last[0] = now()

        return after

    values = recipe(engine, options, log_every=options.log_every, threads=options.threads)
    run(values, options.steps + 1, begin)
    return times[0][2:], times[1][2:]  # the first steps warm up


def main() -> None:
    """Time both engines and print the ratios."""
    parser = arguments("engine_step", __doc__)
    parser.set_defaults(repeats=1)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm name; random weights")
    parser.add_argument("--size", type=int, default=224, help="height and width of its images")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--steps", type=int, default=12, help="steps, of which the first two do not count")
    parser.add_argument("--log-every", type=int, default=5, help="steps between two readings of the loss")
    options = parser.parse_args()
    rows, goals = {}, []
    for engine in ENGINES:
        own, hand = measure(engine, options)
        ratio = statistics.median(a / b for a, b in zip(own, hand, strict=True))
        rows[engine] = (1000 * statistics.median(own), 1000 * statistics.median(hand), ratio)
        goals.append(goal(f"{engine} engine / by hand", ratio, 1.05))
    show(f"{options.model}, batch {options.batch}, training step", rows, ("engine ms", "by hand ms", "ratio"))
    write(options, {"ms": {k: {"engine": v[0], "by_hand": v[1]} for k, v in rows.items()}, "goals": goals})


if __name__ == "__main__":
    main()
