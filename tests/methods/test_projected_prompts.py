"""VPT's prompts at a width of their own, projected to the model's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from naive import NaiveViT, assert_close, attached, linear
from naive_swin import naive_swin
from torch import nn

import mtpeft
from mtpeft.testing.case import images

X = images(2, torch.float64)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("vpt_shallow", 10 * 64 + 64 * 768 + 768), ("vpt_deep", 12 * 10 * 64 + 64 * 768 + 768)],
)
def test_counts_start_and_one_layer_for_all_blocks(vit_b: nn.Module, method: str, expected: int) -> None:
    manager = mtpeft.attach(vit_b, method, num_tokens=10, projection_dim=64)
    try:
        manager.add_task("birds", num_classes=2)
        assert manager.num_trainable("birds", heads=False) == expected
        bank: Any = manager.attachments[0].weights.bank("birds")
        (layer,) = bank.model.layers.values()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 768), rel=0.03)
        bound = math.sqrt(6 / (3 * 16**2 + 64))
        largest = max(site.prompts.abs().max().item() for site in bank.sites.values())
        assert 0.95 * bound < largest <= bound
    finally:
        manager.detach()


@torch.no_grad()
def test_deep_prompts_are_projected_before_each_block() -> None:
    model, manager, sites = attached("dinov2", "vpt_deep", num_tokens=3, projection_dim=7)
    bank: Any = manager.attachments[0].weights.bank("birds")
    layer, start = bank.model.layers["48"], model.num_prefix_tokens

    def insert(x: torch.Tensor, i: int) -> torch.Tensor:
        own = linear(layer, sites["tokens", i].prompts).expand(2, -1, -1)
        patches = x[:, -16:]
        return torch.cat([x[:, :start], own, patches], dim=1)

    expected = NaiveViT(model, tokens=insert)(X)
    found = manager.backbone.forward_features(X)  # type: ignore[operator]
    assert_close(found, torch.cat([expected[:, :start], expected[:, -16:]], dim=1))


@torch.no_grad()
def test_on_swin_every_width_has_a_layer() -> None:
    model, manager, sites = attached("swin", "vpt_deep", num_tokens=2, projection_dim=5)
    bank: Any = manager.attachments[0].weights.bank("birds")
    assert {name: layer.weight.shape for name, layer in bank.model.layers.items()} == {"24": (24, 5), "48": (48, 5)}
    fresh = [linear(bank.model.layers["24" if i < 2 else "48"], sites["tokens", i].prompts) for i in range(4)]
    assert_close(manager.backbone.forward_features(X), naive_swin(model, X, fresh))  # type: ignore[operator]
