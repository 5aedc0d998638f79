"""Single-task training: the tasks of a recipe with `separate = True`, each in a run of its own, and their results as one.

The values are what multi-task training is compared with: they are their own single-task values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtpeft.evaluation.run_facts import UNRELATED
from mtpeft.files import write_atomic
from mtpeft.joint.pictures import FOLDER
from mtpeft.manager.counting import RULE

Results = dict[str, Any]


def separate_recipes(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{task: the recipe with this task alone}."""
    common = {k: v for k, v in recipe.items() if k not in ("separate", "tasks", "single_task")}
    return {
        task: {**common, "name": f"{recipe['name']}_{task}", "tasks": {task: section}}
        for task, section in recipe["tasks"].items()
    }


def merge(recipe: Mapping[str, Any], found: Mapping[str, Results], path: Path) -> Results:
    """One results.json out of those of the tasks; the pictures are copied into `path`."""
    runs = list(found.values())
    main = {task: run["main"][task] for task, run in found.items()}
    sums = {key: sum(run["parameters"][key] for run in runs) for key in ("method", "norm_bias", "head", "buffers")}
    parameters = {
        **sums,
        "backbone": runs[0]["parameters"]["backbone"],
        "trainable_per_task": _union(run["parameters"]["trainable_per_task"] for run in runs),
        "per_task": _union(run["parameters"]["per_task"] for run in runs),
        "rule": f"{RULE} Here every task has a model of its own; totals are over all of them.",
    }
    return {
        **{key: value for key, value in runs[0].items() if key != "memory"},
        "name": recipe["name"],
        "recipe": {k: v for k, v in recipe.items() if k not in UNRELATED},
        "tasks": [task for run in runs for task in run["tasks"]],
        "final": _union(run["final"] for run in runs),
        "main": main,
        "history": [
            {
                "step": entries[0]["step"],
                "values": _union(entry["values"] for entry in entries),
                "delta": None,
                **({"validation_delta": None} if "validation_delta" in entries[0] else {}),
            }
            for entries in zip(*(run["history"] for run in runs), strict=True)
        ],
        "single_task": main,
        "delta": 0.0,
        "best": None,
        "parameters": parameters,
        **_memory(runs),
        "flops": {
            "total": sum(run["flops"]["total"] for run in runs),
            "backbone": sum(run["flops"]["backbone"] for run in runs),
            "heads": _union(run["flops"]["heads"] for run in runs),
            "per_task": _union(run["flops"]["per_task"] for run in runs),
            "rule": runs[0]["flops"]["rule"],
        },
        "curves": {"train_loss": [point for run in runs for point in run["curves"]["train_loss"]]},
        "gradient_conflict": None,
        "pictures": _copy_pictures(found, path),
        "skipped": _union(run["skipped"] for run in runs),
        "frozen": _frozen(runs),
    }


def _union(parts: Any) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def _memory(runs: list[Results]) -> dict[str, Any]:
    """Bytes by task; nothing where one of the runs has none."""
    if not all("memory" in run for run in runs):
        return {}
    return {"memory": {**runs[0]["memory"], "per_task": _union(run["memory"]["per_task"] for run in runs)}}


def _frozen(runs: list[Results]) -> dict[str, Any]:
    """The first run whose backbone changed, if any did."""
    changed = [run["frozen"] for run in runs if not run["frozen"]["unchanged"]]
    return changed[0] if changed else runs[0]["frozen"]


def _copy_pictures(found: Mapping[str, Results], path: Path) -> str | None:
    index: dict[str, Any] = {}
    for task, run in found.items():
        if run["pictures"] is None:
            return None
        source = path / task / run["pictures"]
        index.update(json.loads((source / "index.json").read_text())["tasks"])
        for file in sorted(source.glob("*.png")):
            write_atomic(path / FOLDER / file.name, file.read_bytes())
    write_atomic(path / FOLDER / "index.json", json.dumps({"tasks": index}, indent=1, sort_keys=True) + "\n")
    return FOLDER
