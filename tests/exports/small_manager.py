"""A small manager of two tasks on the embedded ViT, with random weights everywhere."""

from __future__ import annotations

from typing import Any

import torch

import mtpeft
from mtpeft.manager.attach import create_backbone
from mtpeft.testing.case import perturb

OPTIONS = {"depth": 2, "patch_size": 8}


def small(method: Any = "lora", sharing: str | None = None, backbone: Any = None, **options: Any) -> Any:
    """Tasks "birds" of 3 classes and "cars" of 5."""
    torch.manual_seed(0)
    model = create_backbone("vit_mini_patch4_32", pretrained=False, **OPTIONS) if backbone is None else backbone
    manager = mtpeft.attach(model, method, sharing=sharing, **options)
    manager.add_task("birds", num_classes=3)
    manager.add_task("cars", num_classes=5)
    perturb(manager)
    return manager.eval()
