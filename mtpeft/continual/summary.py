"""The content of results.json (see mtpeft/evaluation/SCHEMA.md). It holds no time and no path: a resumed run gives the same."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import timm
import torch

from mtpeft._version import __version__
from mtpeft.backbones.fingerprint import fingerprint
from mtpeft.counting import RULE, backbone_size
from mtpeft.evaluation.measures import compute_measures

if TYPE_CHECKING:
    from mtpeft.continual.experiment import Experiment


def summarise(experiment: Experiment) -> dict[str, Any]:
    """The content of results.json (see mtpeft/evaluation/SCHEMA.md)."""
    manager, values = experiment.manager, experiment.matrix.to_dict()
    described = experiment.stream.describe()
    counts = [manager.counts(t) for t in manager.tasks]
    trained = sum(p.numel() for n, p in manager.trainable_parameters() if not n.startswith("heads."))
    norm_bias = sum(p.numel() for a in manager.methods if a.spec.properties.no_added_modules for p in a.parameters())
    after, single = fingerprint(manager.backbone), experiment.single_task
    return {
        "schema": 1,
        "kind": "continual",
        "name": experiment.name,
        "seed": experiment.seed,
        "recipe": {k: v for k, v in experiment.recipe.items() if k != "device"},
        "backbone": {"name": experiment.backbone_name, "fingerprint": manager.fingerprint},
        "input": {
            "size": list(experiment.data_config["input_size"][1:]),
            "mean": list(experiment.data_config["mean"]),
            "std": list(experiment.data_config["std"]),
            "interpolation": experiment.data_config["interpolation"],
        },
        "scenario": experiment.stream.kind,
        "tasks": [
            {
                "name": metric.name,
                "metric": metric.metric,
                "unit": metric.unit,
                "higher_is_better": metric.higher_is_better,
                "classes": task["classes"],
                "train_samples": task["train_images"],
                "test_samples": task["test_images"],
            }
            for metric, task in zip(experiment.metrics, described["tasks"], strict=True)
        ],
        "matrix": {"values": values["values"], "samples": values["samples"]},
        "reference": {"random_init": experiment.reference, **({} if single is None else {"single_task": single})},
        "baselines": experiment.baselines,
        "measures": [m.to_dict() for m in compute_measures(experiment.matrix, experiment.reference, single)],
        "parameters": {
            "method": trained - norm_bias,
            "norm_bias": norm_bias,
            "head": sum(p.numel() for p in manager.heads.parameters()),
            "buffers": sum(c.buffers for c in counts),
            "backbone": backbone_size(manager),
            "trainable_per_task": _per_task(experiment),
            "rule": RULE,
        },
        "frozen": {
            "fingerprint_before": manager.fingerprint,
            "fingerprint_after": after,
            "unchanged": after == manager.fingerprint,
        },
        "curves": {"train_loss": experiment.curve.points},
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "mtpeft": __version__,
            "threads": torch.get_num_threads(),
        },
    }


def _per_task(experiment: Experiment) -> dict[str, int]:
    names = {t.name: t.name for t in experiment.stream}
    if experiment.stream.kind == "domain_incremental":
        names = {t.name: experiment.manager.tasks[0] for t in experiment.stream}
    return {name: experiment.manager.num_trainable(task, heads=False) for name, task in names.items()}
