"""Synthetic results and pictures of joint runs, for tests of the report: made-up numbers, the real schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: name: kind, metric, unit, higher_is_better, single-task value, other measure
TASKS = {
    "semseg": ("semseg", "mIoU", "%", True, 52.0, "pixel_accuracy"),
    "depth": ("depth", "rmse", "m", False, 0.25, "abs_rel"),
    "normals": ("normals", "mean", "deg", False, 18.0, "median"),
    "saliency": ("saliency", "maxF", "%", True, 90.0, "mIoU"),
}


def make_joint(
    name: str = "vmt_adapter",
    seed: int = 0,
    gain: float = 2.0,
    method: int = 73728,
    tasks: tuple[str, ...] = tuple(TASKS),
    single: bool = True,
    **recipe: Any,
) -> dict[str, Any]:
    """A run whose tasks end about `gain` percent better than single-task training."""
    generator = np.random.default_rng([seed, len(name)])
    steps = list(range(100, 1001, 100))
    history = []
    for step in steps:
        values = {}
        for task in tasks:
            _, metric, _, higher, level, other = TASKS[task]
            progress = gain - 40 * np.exp(-step / 200) + generator.normal(0, 0.4)
            value = level * (1 + (progress if higher else -progress) / 100)
            values[task] = {metric: round(float(value), 4), other: round(float(value) * 0.9, 4)}
        history.append({"step": step, "values": values, "delta": delta_of(values) if single else None})
    best = max(history, key=lambda entry: entry["delta"] or 0.0)
    final = history[-1]["values"]
    return {
        "schema": 1,
        "kind": "joint",
        "name": name,
        "seed": seed,
        "recipe": {
            "seed": seed,
            "backbone": {"name": "swin_mini_patch4_64"},
            "method": {"name": name, **recipe},
            "data": {"name": "scenes"},
            "tasks": {task: {"head": {"name": "segformer"}, "weight": 1.0} for task in tasks},
        },
        "backbone": {"name": "swin_mini_patch4_64", "fingerprint": "3f2a" * 16},
        "input": {"size": [64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
        "tasks": [
            dict(zip(("name", "kind", "metric", "unit", "higher_is_better"), (task, *TASKS[task]), strict=False))
            | {"train_samples": 4000, "val_samples": 500}
            for task in tasks
        ],
        "final": final,
        "main": {task: final[task][TASKS[task][1]] for task in tasks},
        "history": history,
        "single_task": {task: TASKS[task][4] if single else None for task in tasks},
        "delta": history[-1]["delta"],
        "best": {"step": best["step"], "delta": best["delta"]} if single else None,
        **_sizes(tasks, method),
        "curves": {
            "train_loss": [
                {
                    "task": task,
                    "step": step,
                    "loss": round(float(k + np.exp(-step / 150) + generator.normal(0, 0.03)), 4),
                }
                for step in range(10, 1001, 10)
                for k, task in enumerate(tasks)
            ]
        },
        "gradient_conflict": _conflict(tasks, generator) if len(tasks) > 1 else None,
        "pictures": "pictures",
        "skipped": dict.fromkeys(tasks, 0),
        "frozen": {"fingerprint_before": "3f2a" * 16, "fingerprint_after": "3f2a" * 16, "unchanged": True},
        "environment": {"python": "3.11.2", "torch": "2.14.1", "timm": "1.0.31", "mtpeft": "0.1.0", "threads": 2},
    }


def delta_of(values: dict[str, dict[str, float]]) -> float:
    """Multi-task delta in percent."""
    parts = []
    for task, found in values.items():
        _, metric, _, higher, level, _ = TASKS[task]
        parts.append((1 if higher else -1) * 100 * (found[metric] - level) / level)
    return sum(parts) / len(parts)


def _sizes(tasks: tuple[str, ...], method: int) -> dict[str, Any]:
    counts = {"method": method, "norm_bias": 1536, "backbone": 0, "head": 21058, "buffers": 64, "frozen": 5362752}
    return {
        "parameters": {
            "method": method,
            "norm_bias": 1536,
            "head": 21058 * len(tasks),
            "buffers": 64,
            "backbone": 5362752,
            "trainable_per_task": {task: method + 1536 for task in tasks},
            "per_task": {task: dict(counts) for task in tasks},
            "rule": "trained weights, each counted once; heads apart",
        },
        "memory": {
            "backbone": 21_451_008,
            "optimizer": "AdamW",
            "precision": "bfloat16",
            "per_task": {
                task: {
                    "trained": method + 1536 + 21058,
                    "method": 4 * method,
                    "head": 84232,
                    "gradients": 4 * (method + 1536 + 21058),
                    "optimizer": 8 * (method + 1536 + 21058),
                    "activations": 5 * 2**20 + 2**19,
                    "fixed": 0,
                }
                for task in tasks
            },
            "rule": "bytes of each task in training",
        },
        "flops": {
            "total": 61_000_000 + 7_000_000 * len(tasks),
            "backbone": 61_000_000,
            "heads": dict.fromkeys(tasks, 7_000_000),
            "per_task": dict.fromkeys(tasks, 68_000_000),
            "rule": "a multiplication and an addition are two operations",
        },
    }


def _conflict(tasks: tuple[str, ...], generator: np.random.Generator) -> dict[str, Any]:
    noise = generator.uniform(-0.9, 0.9, (len(tasks), len(tasks)))
    cosine = np.round((noise + noise.T) / 2, 4)
    np.fill_diagonal(cosine, 1.0)
    return {"tasks": list(tasks), "cosine": cosine.tolist()}


def make_pictures(folder: Path, results: dict[str, Any], amount: int = 3) -> None:
    """Write pictures/ for a run: small PNG files and their index.json."""
    target = folder / "pictures"
    target.mkdir(parents=True)
    index: dict[str, Any] = {}
    for t, task in enumerate(results["main"]):
        index[task] = {"best": [], "worst": []}
        for kind, cases in index[task].items():
            for k in range(amount):
                case = {"sample": f"scene_{7 * k + t:05d}", "score": results["main"][task]}
                for shift, part in enumerate(("image", "truth", "prediction")):
                    case[part] = f"{task}_{kind}_{k}_{part}.png"
                    _picture(t + k, shift).save(target / case[part])
                cases.append(case)
    (target / "index.json").write_text(json.dumps({"tasks": index}))


def _picture(number: int, shift: int) -> Image.Image:
    y, x = np.mgrid[:64, :64]
    inside = (x - 30 - 2 * shift) ** 2 + (y - 34) ** 2 < (12 + 3 * number % 14) ** 2
    colour = np.array([(60 * number + 90) % 256, (110 * shift + 40) % 256, 170])
    pixels = np.where(inside[..., None], colour, np.stack([2 * x, 2 * y, 128 + 0 * x], -1))
    return Image.fromarray(pixels.astype(np.uint8))
