"""Counts of predicted classes and strips of clips for synthetic results, for tests of the report."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def with_counts(results: dict[str, Any], per_task: int = 2, samples: int = 1000) -> dict[str, Any]:
    """The same run with `per_task` classes a task, of `samples` each: seven of ten right, the rest anywhere."""
    generator = np.random.default_rng([results["seed"], len(results["name"])])
    new = copy.deepcopy(results)
    total = len(new["tasks"])
    common = new["scenario"] != "task_incremental"
    names = [f"class {k}" for k in range(per_task * (total if new["scenario"] == "class_incremental" else 1))]
    new["confusion"] = []
    for j, task in enumerate(new["tasks"]):
        classes = names if common else [f"class {per_task * j + k}" for k in range(per_task)]
        rows = list(range(per_task * j, per_task * (j + 1))) if len(classes) > per_task else list(range(per_task))
        counts = []
        for row in rows:
            chances = np.full(len(classes), 0.3 / (len(classes) - 1))
            chances[row] = 0.7
            counts.append(generator.multinomial(samples, chances).tolist())
        new["confusion"].append({"task": task["name"], "classes": classes, "rows": rows, "counts": counts})
        for i in range(total):
            new["matrix"]["samples"][i][j] = per_task * samples
    return new


def make_strips(folder: Path, results: dict[str, Any], frames: int = 4, shares: bool = True) -> None:
    """Write pictures/ for a run: two strips a task with temporal attention, and weights of the frames unless told not."""
    target = folder / "pictures"
    target.mkdir(parents=True)
    index: dict[str, Any] = {}
    for j, task in enumerate(results["tasks"]):
        index[task["name"]] = []
        for k in range(2):
            pixels = np.zeros((8, 8 * frames, 4), dtype=np.uint8) + np.uint8(40 * j + 10 * k + 20)
            file = f"task{j}_{k}.png"
            Image.fromarray(pixels).save(target / file)
            attention = np.full((frames, frames), 0.5 / (frames - 1))
            np.fill_diagonal(attention, 0.5)
            index[task["name"]].append(
                {
                    "sample": f"forward/{j}{k}.mkv",
                    "image": file,
                    "frames": frames,
                    "truth": "forward",
                    "predicted": "reverse" if k else "forward",
                    "right": not k,
                    "probability": 0.625,
                    "temporal": np.round(attention, 4).tolist(),
                    "weights": [round((t + 1) / (frames * (frames + 1) / 2), 4) for t in range(frames)]
                    if shares
                    else None,
                }
            )
    (target / "index.json").write_text(json.dumps({"tasks": index}))
