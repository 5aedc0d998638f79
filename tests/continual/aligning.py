"""Small class-incremental recipes whose head is aligned after every task."""

from __future__ import annotations

from typing import Any

from small_recipe import make_recipe

from mtpeft.continual.alignment import ClassifierAlignment
from mtpeft.continual.experiment import Experiment

STREAM = {
    **make_recipe()["stream"], "type": "class_incremental", "first": 3, "train_per_class": 8, "test_per_class": 4,
}  # fmt: skip
COSINE = {**STREAM, "head": {"name": "growing", "kind": "cosine", "scale": 10.0, "learn_scale": True}}
LOCAL = {**make_recipe()["training"], "batch_size": 8, "loss": "local_cross_entropy", "head_lr": 0.01}
SLCA = {"type": "ClassifierAlignment", "samples": 16, "epochs": 2}
SSIAT = {**SLCA, "temperature": None, "restore": False, "drift": "semantic", "drift_width": 0.5, "ridge": 1e-3}


def aligned(options: dict[str, Any], **changes: Any) -> tuple[Experiment, ClassifierAlignment]:
    recipe = make_recipe(**{"stream": STREAM, "training": LOCAL, "plugins": [options], **changes})
    experiment = Experiment(recipe)
    return experiment, next(p for p in experiment.strategy.plugins if isinstance(p, ClassifierAlignment))
