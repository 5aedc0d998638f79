"""The content of results.json of kind "joint" (see mtpeft/evaluation/SCHEMA_JOINT.md). It holds no time and no path."""

from __future__ import annotations

import dataclasses
import platform
from typing import TYPE_CHECKING, Any

import timm
import torch

from mtpeft._version import __version__
from mtpeft.backbones.fingerprint import fingerprint
from mtpeft.counting import RULE, backbone_size
from mtpeft.joint.evaluation import main_values
from mtpeft.joint.flops import count_flops
from mtpeft.joint.pictures import FOLDER

if TYPE_CHECKING:
    from mtpeft.joint.experiment import JointExperiment


def summarise(experiment: JointExperiment, conflict: dict[str, Any] | None) -> dict[str, Any]:
    """The content of results.json."""
    manager, model, data = experiment.manager, experiment.model, experiment.data
    last = experiment.history[-1]
    after = fingerprint(manager.backbone)
    config = experiment.data_config
    return {
        "schema": 1,
        "kind": "joint",
        "name": experiment.name,
        "seed": experiment.seed,
        "recipe": {k: v for k, v in experiment.recipe.items() if k != "device"},
        "backbone": {"name": experiment.backbone_name, "fingerprint": manager.fingerprint},
        "input": {
            "size": list(config["input_size"][1:]),
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "interpolation": config["interpolation"],
        },
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
        "curves": {"train_loss": experiment.curve.points},
        "gradient_conflict": conflict,
        "pictures": FOLDER if experiment.pictures else None,
        "skipped": model.skipped,
        "frozen": {
            "fingerprint_before": manager.fingerprint,
            "fingerprint_after": after,
            "unchanged": after == manager.fingerprint,
        },
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "mtpeft": __version__,
            "threads": torch.get_num_threads(),
        },
    }


def _parameters(experiment: JointExperiment) -> dict[str, Any]:
    manager = experiment.manager
    counts = {task: manager.counts(task) for task in manager.tasks}
    trained = sum(p.numel() for n, p in manager.trainable_parameters() if not n.startswith("heads."))
    norm_bias = sum(p.numel() for a in manager.methods if a.spec.properties.no_added_modules for p in a.parameters())
    return {
        "method": trained - norm_bias,
        "norm_bias": norm_bias,
        "head": sum(p.numel() for p in manager.heads.parameters() if p.requires_grad),
        "buffers": sum(c.buffers for c in counts.values()),
        "backbone": backbone_size(manager),
        "trainable_per_task": {task: manager.num_trainable(task, heads=False) for task in manager.tasks},
        "per_task": {task: dataclasses.asdict(c) for task, c in counts.items()},
        "rule": RULE,
    }
