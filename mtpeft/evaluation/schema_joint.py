"""The structure of results.json of kind "joint" (see SCHEMA_JOINT.md), in the language of `mtpeft.evaluation.schema`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtpeft.errors import DataError
from mtpeft.evaluation.schema import COUNT, ENTRY, FLAG, NUMBER, POSITIVE, RESULTS, TEXT, Leaf, MapOf, check, one_of

OPTIONAL_TEXT = Leaf("a text or null", lambda value: value is None or isinstance(value, str))
NULL = Leaf("null", lambda value: value is None)
COUNTS = {"method": COUNT, "norm_bias": COUNT, "backbone": COUNT, "head": COUNT, "buffers": COUNT, "frozen": COUNT}
VALUES = MapOf(MapOf(ENTRY))

JOINT: dict[str, Any] = {
    **{
        key: RESULTS[key]
        for key in (
            *("schema", "name", "seed", "recipe", "backbone", "input", "frozen", "environment", "continued?"),
            *("feature_cache?", "memory?"),
        )
    },
    "kind": one_of("joint"),
    "tasks": [
        {
            "name": TEXT,
            "kind": TEXT,
            "metric": TEXT,
            "unit": TEXT,
            "higher_is_better": FLAG,
            "train_samples": POSITIVE,
            "val_samples": POSITIVE,
            "validation_samples?": POSITIVE,
        }
    ],
    "final": VALUES,
    "main": MapOf(ENTRY),
    "history": [{"step": COUNT, "values": VALUES, "delta": ENTRY, "validation_delta?": ENTRY}],
    "single_task": MapOf(ENTRY),
    "delta": ENTRY,
    "parameters": {**RESULTS["parameters"], "per_task": MapOf(COUNTS)},
    "flops": {"total": COUNT, "backbone": COUNT, "heads": MapOf(COUNT), "per_task": MapOf(COUNT), "rule": TEXT},
    "curves": {"train_loss": [{"task": TEXT, "step": POSITIVE, "loss": NUMBER}]},
    "pictures": OPTIONAL_TEXT,
    "skipped": MapOf(COUNT),
}
BEST = {"step": POSITIVE, "delta": NUMBER}
CONFLICT = {"tasks": [TEXT], "cosine": [[ENTRY]]}


def validate_joint(results: Mapping[str, Any]) -> None:
    """Raise `DataError` with one line that names the first key that is missing, unknown or does not fit the others."""
    nullable = {"best": BEST, "gradient_conflict": CONFLICT}
    spec = {**JOINT, **{k: v if results.get(k) is not None else NULL for k, v in nullable.items()}}
    check(results, spec, "")
    names = [task["name"] for task in results["tasks"]]
    if len(set(names)) != len(names) or not names:
        raise DataError(f"tasks must have names of their own, at least one, got {names}")
    for key in ("final", "main", "single_task", "skipped"):
        _same_tasks(results[key], names, key)
    for index, entry in enumerate(results["history"]):
        _same_tasks(entry["values"], names, f"history[{index}].values")
    for key in ("trainable_per_task", "per_task"):
        _same_tasks(results["parameters"][key], names, f"parameters.{key}")
    if "memory" in results:
        _same_tasks(results["memory"]["per_task"], names, "memory.per_task")
    for key in ("heads", "per_task"):
        _same_tasks(results["flops"][key], names, f"flops.{key}")
    for task in results["tasks"]:
        name, metric = task["name"], task["metric"]
        if metric not in results["final"][name]:
            raise DataError(f"final.{name} lacks the task's main metric {metric!r}")
        if results["main"][name] != results["final"][name][metric]:
            raise DataError(f"main.{name} is {results['main'][name]}, but final.{name}.{metric} is not")
    steps = [entry["step"] for entry in results["history"]]
    if not steps or steps != sorted(set(steps)):
        raise DataError(f"history must have entries with growing steps, got {steps[:10]}")
    if results["history"][-1]["values"] != results["final"]:
        raise DataError("the last entry of history is not final")
    conflict = results["gradient_conflict"]
    if conflict is not None and any(
        len(row) != len(conflict["tasks"]) for row in [conflict["cosine"], *conflict["cosine"]]
    ):
        raise DataError("gradient_conflict.cosine must have a row and a column per task")
    for index, point in enumerate(results["curves"]["train_loss"]):
        if point["task"] not in names:
            raise DataError(
                f"curves.train_loss[{index}].task is {point['task']!r}, which is not one of the tasks {names}"
            )
    frozen = results["frozen"]
    if frozen["unchanged"] != (frozen["fingerprint_before"] == frozen["fingerprint_after"]):
        raise DataError("frozen.unchanged contradicts the two fingerprints beside it")


def _same_tasks(values: Mapping[str, Any], names: list[str], place: str) -> None:
    if set(values) != set(names):
        raise DataError(f"{place} has the tasks {sorted(values)}, expected {sorted(names)}")
