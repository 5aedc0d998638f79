"""What results.json of kind "joint" says of tasks, values and weights (see mtpeft/evaluation/SCHEMA_JOINT.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mtpeft.evaluation.run_facts import parameter_facts
from mtpeft.joint.data import JointData
from mtpeft.joint.evaluation import main_values
from mtpeft.joint.model import JointModel
from mtpeft.manager.flops import count_flops
from mtpeft.manager.manager import TaskManager
from mtpeft.runs.model_folder import JOINT, ModelTask, ModelTasks


def summarise(model: JointModel, data: JointData, history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The keys of results.json that model, data and evaluations give; the last entry of `history` is the end's."""
    last = history[-1]
    return {
        "schema": 1,
        "kind": "joint",
        "tasks": [
            {
                "name": task,
                "kind": kind.name,
                "metric": kind.metric,
                "unit": kind.unit,
                "higher_is_better": kind.higher_is_better,
                "train_samples": data.samples(task, "train"),
                "val_samples": data.samples(task, "val"),
                **({"validation_samples": data.samples(task, "held")} if data.held else {}),
            }
            for task, kind in model.kinds.items()
        ],
        "final": last["values"],
        "main": main_values(model, last["values"]),
        "history": list(history),
        "delta": last["delta"],
        "parameters": _parameters(model.manager),
        "flops": count_flops(model.manager),
        "skipped": model.skipped,
    }


def model_tasks(data: JointData) -> ModelTasks:
    """What the outputs of the model mean, kept beside its weights."""
    views = {task: data.val[place.source] for task, place in data.places.items()}
    found = [ModelTask.of_kind(t, kind, data.infos[t].classes, views[t]) for t, kind in data.kinds.items()]
    return ModelTasks(JOINT, tuple(found))


def _parameters(manager: TaskManager) -> dict[str, Any]:
    return {
        **parameter_facts(manager),
        "trainable_per_task": {task: manager.num_trainable(task, heads=False) for task in manager.tasks},
        "per_task": {task: dataclasses.asdict(manager.counts(task)) for task in manager.tasks},
    }
