"""Trained weights of four PASCAL-Context tasks on Swin-T, against the published tables of dense multi-task work."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import mtpeft

CHANNELS = {"semseg": 21, "parts": 7, "saliency": 1, "normals": 3}
HOULSBY: dict[str, Any] = {"name": "houlsby", "reduction": 4}
NORMS = {"name": "ln_tune", "sharing": "shared"}
VMT_OUTPUT = {"name": "vmt_adapter", "ke_blocks": "all", "ke_position": "output"}

#: method, sharing, weights of the encoder for all tasks together, millions published (two decimals)
ENCODER: list[tuple[str, Any, Any, int, float]] = [
    ("decoders only", "linear_probe", None, 0, 0.00),
    ("multi-task full", "full", None, 27_519_354, 27.51),
    ("adapter", [HOULSBY, NORMS], "per_task", 4 * 2_167_584 + 24_768, 8.69),
    ("shared adapter", [HOULSBY, NORMS], "shared", 2_167_584 + 24_768, 2.19),
    ("bitfit", {"name": "bitfit", "tables": True}, "per_task", 4 * 75_546, 0.30),
    ("vpt shallow", {"name": "vpt_shallow", "num_tokens": 50}, "per_task", 4 * 4_800, 0.02),
    ("vpt deep", {"name": "vpt_deep", "num_tokens": 50}, "per_task", 4 * 220_800, 0.88),
    ("polyhistor lite", [HOULSBY, NORMS], "polyhistor_lite", 419_592, 0.41),
    ("vmt adapter", [{"name": "vmt_adapter", "ke_blocks": "all"}, NORMS], None, 1_117_392, 1.12),
    ("vmt adapter, its published count", [VMT_OUTPUT, {**NORMS, "sites": ["norm2"]}], None, 1_127_952, 1.13),
]

#: rank of the shared updates -> weights of encoder and decoders, millions published
MTLORA = [(16, 4_953_146, 4.95), (32, 6_083_642, 6.08), (64, 8_344_634, 8.34)]


def attach(backbone: nn.Module, method: Any, sharing: Any, head: dict[str, Any]) -> mtpeft.TaskManager:
    manager = mtpeft.attach(backbone, method, sharing=sharing)
    for task, channels in CHANNELS.items():
        manager.add_task(task, head={**head, "channels": channels})
    return manager


@pytest.mark.parametrize(("row", "method", "sharing", "expected", "published"), ENCODER, ids=[r[0] for r in ENCODER])
def test_encoder_weights_of_four_tasks(
    swin_t: nn.Module, row: str, method: Any, sharing: Any, expected: int, published: float
) -> None:
    manager = attach(swin_t, method, sharing, {"name": "stage_linear"})
    try:
        assert manager.num_trainable(heads=False) == expected
        assert abs(expected / 1e6 - published) <= 0.02
    finally:
        manager.detach()


def test_segformer_decoders(swin_t: nn.Module) -> None:
    manager = attach(swin_t, "linear_probe", None, {"name": "segformer", "embed_dim": 256})
    try:
        assert round(manager.num_trainable() / 1e6, 2) in (2.54, 2.55)  # published: 2.55
    finally:
        manager.detach()


@pytest.mark.parametrize(("rank", "expected", "published"), MTLORA)
def test_mtlora_with_its_own_decoders(swin_t: nn.Module, rank: int, expected: int, published: float) -> None:
    manager = attach(swin_t, {"name": "mtlora", "rank": rank}, None, {"name": "hrnet_merged"})
    try:
        assert manager.num_trainable() == expected
        assert round(expected / 1e6, 2) == published
    finally:
        manager.detach()


def test_generated_weights_that_the_papers_do_not_determine(swin_t: nn.Module) -> None:
    """With k = 64, rho = 4 and r = 12 (see the docstrings): published 70.22 M and 6.41 M with values not stated."""
    matrices, biases, norms = 4 * 783_360 // 4, 2 * 1_800, 2 * 2 * 1_440  # sums over widths and both positions
    embeddings = (4 + 24) * 64 + (128 + 1) * 64 + (64 + 1) * 64 + 2 * 64
    expected = (matrices + biases + norms) * (64 + 1) + embeddings + 24_768
    for method, sharing, low, high in (
        ({**HOULSBY, "adapter_ln": "out"}, "hyperformer", expected, expected),
        (HOULSBY, "polyhistor", 5.5e6, 5.7e6),
    ):
        manager = attach(swin_t, [method, NORMS], sharing, {"name": "stage_linear"})
        try:
            assert low <= manager.num_trainable(heads=False) <= high
        finally:
            manager.detach()
