"""Numbers of trained weights of reparameterisations on ViT-B/16, head apart, as published or as their shapes say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import timm
from torch import nn

import mtpeft

ALL = ("qkv", "proj", "fc1", "fc2")

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("lora", {"rank": 8, "rank_stabilized": True}, 294_912),
    ("dora", {"rank": 8, "sites": ("qkv",)}, 322_560),
    ("dora", {"rank": 8, "sites": ALL}, 1_262_592),
    ("dora", {}, 294_912 + 12 * 2 * 768),
    ("vera", {}, 24_576),
    ("vera", {"sites": ("qkv",)}, 30_720),
    ("vera", {"sites": ALL}, 95_232),
    ("krona", {}, 36_864),
    ("krona", {"a_shape": (48, 16)}, 36_864),
    ("krona", {"sites": ("q", "k", "v", "proj")}, 73_728),
    ("krona", {"sites": ("q", "k", "v", "proj", "fc1", "fc2")}, 147_456),
    ("krona", {"a_shape": (48, 48)}, 61_440),
    ("krona", {"a_shape": (64, 64)}, 101_760),
    ("kadaptation", {}, 50_176),
    ("repadapter", {}, 239_808),
    ("repadapter", {"sites": ("qkv",)}, 119_904),
    ("efft", {}, 245_760),
    ("efft", {"rank": 16}, 104_448),
    ("efft", {"rank": 8}, 47_616),
    ("efft", {"core": "shared"}, 178_176),
    ("efft", {"rank": 8, "core": "shared"}, 43_392),
]


@pytest.fixture(scope="module")
def vit_b() -> Iterator[nn.Module]:
    """One ViT-B/16 with random weights for the whole file; methods are attached and detached."""
    yield timm.create_model("vit_base_patch16_224", num_classes=0)


@pytest.mark.parametrize(("method", "options", "expected"), COUNTS)
def test_trained_weights_without_the_head(
    vit_b: nn.Module, method: str, options: dict[str, Any], expected: int
) -> None:
    manager = mtpeft.attach(vit_b, method, **options)
    try:
        manager.add_task("birds", num_classes=10)
        assert manager.num_trainable("birds", heads=False) == expected
        assert manager.counts("birds").frozen + manager.counts("birds").backbone == 85_798_656
    finally:
        manager.detach()
