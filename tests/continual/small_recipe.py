"""A continual recipe that trains in a second or two."""

from __future__ import annotations

from typing import Any


def make_recipe(**changes: Any) -> dict[str, Any]:
    """A recipe that trains in a second or two; `changes` replace top-level keys."""
    recipe: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "backbone": {"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 2, "patch_size": 8}},
        "method": {"name": "lora", "rank": 4, "dropout": 0.1},
        "sharing": "shared",
        "stream": {
            "type": "task_incremental",
            "data": {"type": "Digits"},
            "num_tasks": 5,
            "train_per_class": 16,
            "test_per_class": 10,
        },
        "training": {"epochs": 2, "batch_size": 16, "optimizer": {"type": "AdamW", "lr": 0.003}, "schedule": "cosine"},
        "checkpoint": {"interval": 2},
        "baselines": False,
    }
    recipe.update(changes)
    return recipe
