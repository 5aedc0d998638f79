"""The content of results.json of kind "joint" (see mtpeft/evaluation/SCHEMA_JOINT.md). It holds no time and no path."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mtpeft.evaluation.run_facts import parameter_facts, run_facts
from mtpeft.joint.evaluation import main_values
from mtpeft.joint.pictures import FOLDER
from mtpeft.manager.flops import count_flops

if TYPE_CHECKING:
    from mtpeft.joint.experiment import JointExperiment


def summarise(experiment: JointExperiment, conflict: dict[str, Any] | None) -> dict[str, Any]:
    """The content of results.json."""
    manager, model, data = experiment.manager, experiment.model, experiment.data
    last = experiment.history[-1]
    return {
        "schema": 1,
        "kind": "joint",
        **run_facts(experiment),
        "tasks": [
            {
                "name": task,
                "kind": kind.name,
                "metric": kind.metric,
                "unit": kind.unit,
                "higher_is_better": kind.higher_is_better,
                "train_samples": data.samples(task, "train"),
                "val_samples": data.samples(task, "val"),
            }
            for task, kind in model.kinds.items()
        ],
        "final": last["values"],
        "main": main_values(model, last["values"]),
        "history": experiment.history,
        "single_task": experiment.single_task,
        "delta": last["delta"],
        "best": experiment.best,
        "parameters": _parameters(experiment),
        "flops": count_flops(manager),
        "gradient_conflict": conflict,
        "pictures": FOLDER if experiment.pictures else None,
        "skipped": model.skipped,
    }


def _parameters(experiment: JointExperiment) -> dict[str, Any]:
    manager = experiment.manager
    return {
        **parameter_facts(manager),
        "trainable_per_task": {task: manager.num_trainable(task, heads=False) for task in manager.tasks},
        "per_task": {task: dataclasses.asdict(manager.counts(task)) for task in manager.tasks},
    }
