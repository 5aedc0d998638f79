"""Numbers of weights on ViT-B/16, as the papers give them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtpeft.hooks.attachment import Attachment
from mtpeft.methods import METHODS
from mtpeft.testing.backbones import vit_base

L2P = ("vpt_shallow", {"num_tokens": 5}, {"size": 10, "top_k": 5, "start": "uniform"})
L2P_JAX = ("vpt_shallow", {"num_tokens": 10}, {"size": 10, "top_k": 4})
G = ("prefix_tuning", {"num_tokens": 5, "blocks": (0, 1)}, None)
E = {"choose": "own", "start": "uniform", "from_previous": True}
CODA = {"choose": "mix", "per_task": 10, "keys": "block", "start": "orthogonal"}
COUNTS: dict[str, tuple[list[Any], int]] = {
    "L2P": ([L2P], 46_080),
    "L2P, JAX": ([L2P_JAX], 84_480),
    "DualPrompt, CIFAR-100": ([G, ("prefix_tuning", {"num_tokens": 5, "blocks": (2, 3, 4)}, E)], 253_440),
    "DualPrompt, ImageNet-R": ([G, ("prefix_tuning", {"num_tokens": 20, "blocks": (2, 3, 4)}, E)], 944_640),
    "CODA-Prompt": ([("prefix_tuning", {"num_tokens": 4, "blocks": (0, 1, 2, 3, 4)}, CODA)], 3_840_000),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name: str) -> None:
    parts, published = COUNTS[name]
    anatomy, counted, last = vit_base(), 0, 0
    with torch.device("meta"):
        for method, options, sharing in parts:
            spec = METHODS.get(method)
            made = Attachment(spec, spec.build_config(options), anatomy, "pool" if sharing else "shared", sharing or {})
            for task in range(10):
                made.weights.add_task(f"task{task}")
            counted += sum(p.numel() for p in made.weights.parameters())
            last += sum(p.numel() for module in made.weights.modules_of("task9") for p in module.parameters())
    assert counted == last == published
