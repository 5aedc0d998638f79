"""Numbers of trained weights of reparameterisations on ViT-B/16, head apart, as published or as their shapes say."""

from __future__ import annotations

from typing import Any

import pytest
from counted import trained

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


@pytest.mark.parametrize(("method", "options", "expected"), COUNTS)
def test_trained_weights_without_the_head(method: str, options: dict[str, Any], expected: int) -> None:
    assert trained("vit_base_patch16_224", method, **options) == expected
