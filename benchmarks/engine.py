"""The continual engine's training step against a loop written by hand, same model, data and optimiser.

Both train a shared LoRA on ViT-Tiny at 224 pixels with batches of 32; the steps of the two are interleaved in one process,
so that the ratio holds on a busy machine. Command:  python benchmarks/engine.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from mtpeft.continual.experiment import Experiment
from mtpeft.files import write_atomic


def recipe(model: str, batch: int, steps: int) -> dict[str, Any]:
    """One experience of `steps` batches."""
    return {
        "name": "engine",
        "backbone": {"name": model, "pretrained": False},
        "method": {"name": "lora", "rank": 8},
        "sharing": "shared",
        "stream": {
            "type": "task_incremental",
            "data": {"type": "FashionMNIST"},
            "num_tasks": 5,
            "train_per_class": batch * steps // 2,
            "test_per_class": 1,
        },
        "training": {"epochs": 1, "batch_size": batch},
        "baselines": False,
    }


def main() -> None:
    """Time both and print the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "engine.json")
    options = parser.parse_args()
    experiment = Experiment(recipe(options.model, options.batch, options.steps))
    manager, images = experiment.manager, experiment.stream[0].train
    plain = torch.optim.AdamW([p for _, p in manager.trainable_parameters()], lr=1e-3)
    order = torch.randperm(len(images)).tolist()
    engine: list[float] = []
    by_hand: list[float] = []
    last = time.perf_counter()

    def hand_step(number: int) -> None:
        members = order[number * options.batch : (number + 1) * options.batch]
        x, y = images.batch(members)
        loss = F.cross_entropy(manager(x, "task0"), y)
        plain.zero_grad()
        loss.backward()
        plain.step()
        loss.item()

    def on_step() -> None:
        nonlocal last
        experiment.curve.add("task0", experiment.strategy.loss.item())
        engine.append(time.perf_counter() - last)
        start = time.perf_counter()
        hand_step(len(by_hand))
        by_hand.append(time.perf_counter() - start)
        last = time.perf_counter()

    experiment.strategy.on_step = on_step
    experiment.strategy.train_experience(0)
    engine, by_hand = engine[2:], by_hand[2:]  # the first steps warm up
    ratio = statistics.median(e / h for e, h in zip(engine, by_hand, strict=True))
    result = {
        "model": options.model,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "engine_ms": 1000 * statistics.median(engine),
        "by_hand_ms": 1000 * statistics.median(by_hand),
        "ratio": ratio,
        "goal": 1.2,
    }
    print(
        f"engine {result['engine_ms']:.0f} ms, by hand {result['by_hand_ms']:.0f} ms a step: ratio {ratio:.2f} (goal 1.2)"
    )
    write_atomic(options.json, json.dumps(result, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
