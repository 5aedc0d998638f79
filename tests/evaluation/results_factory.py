"""Synthetic results of a run, for tests of results.json and the report: made-up numbers, the real schema."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtpeft.evaluation import AccuracyMatrix, TaskMetric, compute_measures

CLASSES = ["t-shirt and trouser", "pullover and dress", "coat and sandal", "shirt and sneaker", "bag and boot"]


def make_results(
    name: str = "lora",
    seed: int = 0,
    total: int = 5,
    drop: float = 6.0,
    method: int = 73728,
    scenario: str = "task_incremental",
    **recipe: Any,
) -> dict[str, Any]:
    """A run of `total` tasks that loses about `drop` points of accuracy on each old task with each new one."""
    generator = np.random.default_rng([seed, len(name)])
    tasks = [{"name": CLASSES[j % 5] if total <= 5 else f"task {j + 1}", **metric()} for j in range(total)]
    matrix = AccuracyMatrix([TaskMetric(**task) for task in tasks])
    for i in range(total):
        for j in range(total):
            value = 96.0 - drop * (i - j) if j <= i else 50.0
            noise = generator.normal(0, 1.2) if drop or i < j else 0.0
            matrix.set(i, j, float(np.clip(round(value + noise, 2), 0, 100)), samples=2000)
    random_init = [round(float(50 + generator.normal(0, 3)), 2) for _ in range(total)]
    plain = matrix.to_dict()
    return {
        "schema": 1,
        "kind": "continual",
        "name": name,
        "seed": seed,
        "recipe": {
            "seed": seed,
            "backbone": {"name": "mtpeft_vit_tiny", "drop_path": 0.0},
            "method": {"name": name, "rank": 8, "sites": ["q", "v"], **recipe},
            "optimizer": {"name": "adamw", "lr": 0.001, "weight_decay": 0.0},
            "epochs": 1,
        },
        "backbone": {"name": "mtpeft_vit_tiny", "fingerprint": "3f2a" * 16},
        "input": {"size": 64, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
        "scenario": scenario,
        "tasks": [
            {**task, "classes": [2 * j, 2 * j + 1], "train_samples": 12000, "test_samples": 2000}
            for j, task in enumerate(tasks)
        ],
        "matrix": {"values": plain["values"], "samples": plain["samples"]},
        "reference": {"random_init": random_init},
        "baselines": {
            "linear_probe": {"values": [93.1, 88.4, 97.9, 91.2, 99.0, *[90.0] * total][:total]},
            "nearest_class_mean": {"values": [89.6, 81.0, 96.3, 84.7, 98.1, *[85.0] * total][:total]},
        },
        "measures": [measure.to_dict() for measure in compute_measures(matrix, random_init=random_init)],
        "parameters": {
            "method": method,
            "norm_bias": 1536,
            "head": 386 * total,
            "buffers": 0,
            "backbone": 5362752,
            "trainable_per_task": {task["name"]: method + 1536 for task in tasks},
            "rule": "trained weights, each counted once; heads apart",
        },
        "frozen": {"fingerprint_before": "3f2a" * 16, "fingerprint_after": "3f2a" * 16, "unchanged": True},
        "curves": {
            "train_loss": [
                {
                    "task": task["name"],
                    "step": 60 * j + k,
                    "loss": round(float(0.1 + 0.6 * np.exp(-k / 15) + generator.normal(0, 0.02)), 4),
                }
                for j, task in enumerate(tasks)
                for k in range(1, 61)
            ]
        },
        "environment": {"python": "3.11.2", "torch": "2.14.1", "timm": "1.0.31", "mtpeft": "0.1.0", "threads": 2},
    }


def metric() -> dict[str, Any]:
    """The fields of a task measured by accuracy in percent."""
    return {"metric": "accuracy", "unit": "%", "higher_is_better": True}
