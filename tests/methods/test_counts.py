"""Numbers of trained weights on ViT-B/16 and Swin-T, as the papers give them."""

from __future__ import annotations

from typing import Any

import pytest
from counted import trained
from torch import nn

import mtpeft

#: Gao et al., ICCV 2023: published 0.04 M
LAE_ADAPTER = {
    "sites": ("parallel_attn_ln",),
    "bottleneck_dim": 5,
    "activation": "gelu",
    "scale": 1.0,
    "learnable_scale": True,
    "dropout": 0.0,
    "blocks": (0, 1, 2, 3, 4),
}

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("lora", {"rank": 8}, 294_912),
    ("ssf", {}, 205_824),
    ("adaptformer", {"bottleneck_dim": 64}, 1_189_632),
    ("adaptformer", {"bottleneck_dim": 8}, 156_768),
    ("houlsby", {"bottleneck_dim": 8}, 313_536),
    ("houlsby", {"bottleneck_dim": 8, "sites": ("after_mlp",)}, 156_768),
    ("vpt_shallow", {"num_tokens": 50}, 38_400),
    ("vpt_deep", {"num_tokens": 50}, 460_800),
    ("prefix_tuning", {"num_tokens": 10}, 184_320),
    ("prefix_tuning", {"num_tokens": 10, "calibrated": True, "blocks": (0, 1, 2, 3, 4)}, 76_810),
    ("vqt", {"num_tokens": 1}, 9_216),
    ("convpass", {"bottleneck_dim": 8}, 327_552),
    ("convpass", {"bottleneck_dim": 8, "sites": ("parallel_attn_ln",)}, 163_776),
    ("bitfit", {}, 102_912),
    ("ln_tune", {}, 38_400),
    ("linear_probe", {}, 0),
    ("vp", {"prompt_size": 30}, 69_840),
    ("vp", {"prompt_size": 30, "template": "fixed_patch"}, 2_700),
    ("lst", {"reduction": 8, "init": "random"}, 2_376_492),
    ("fact_tt", {"rank": 4}, 8_448),
    ("fact_tt", {"rank": 16}, 61_440),
    ("fact_tk", {"rank": 16}, 30_976),
    ("fact_tk", {"rank": 32}, 86_528),
    ("full", {}, 85_798_656),
    ("aim", {"num_frames": 8}, 10_651_392 + 8 * 768 + 1_536),
    ("aim", {"num_frames": 32, "temporal_adapters": 2}, 4 * 12 * 295_872 + 32 * 768 + 1_536),
    ("st_adapter", {}, 7_110_144),
    ("st_adapter", {"position": "pre_attn"}, 7_110_144),
    ("st_adapter", {"position": "both"}, 14_220_288),
    ("adaptformer", LAE_ADAPTER, 42_270),
    ("lora", {"sites": ("k", "v"), "rank": 5, "learnable_scale": True, "blocks": (0, 1, 2, 3, 4)}, 76_810),
    ("fact_tk", {"rank": 32, "layout": "code"}, 86_528),
    ("patt", {"bottleneck_dim": 32}, 903_552),
    ("patt", {"bottleneck_dim": 8}, 239_712),
    ("patt", {"bottleneck_dim": 32, "bias": False}, 12 * 3 * 768 * 32),
]

#: per task; the published tables give four tasks together: 0.883 M, 0.019 M and (with the position tables) 0.302 M
SWIN_COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("vpt_deep", {"num_tokens": 50}, 220_800),
    ("vpt_shallow", {"num_tokens": 50}, 4_800),
    ("bitfit", {}, 52_224),
    ("bitfit", {"tables": True}, 75_546),
]


@pytest.mark.parametrize(("method", "options", "expected"), COUNTS)
def test_trained_weights_without_the_head(method: str, options: dict[str, Any], expected: int) -> None:
    assert trained("vit_base_patch16_224", method, **options) == expected


#: one of each way to own weights: a task's, the backbone's own, copies of the backbone's
ATTACHED = [
    pytest.param(*row, marks=() if row[0] in ("lora", "full", "bitfit") else pytest.mark.slow) for row in COUNTS
]


@pytest.mark.parametrize(("method", "options", "expected"), ATTACHED)
def test_a_manager_counts_the_same(vit_b: nn.Module, method: str, options: dict[str, Any], expected: int) -> None:
    manager = mtpeft.attach(vit_b, method, **options)
    try:
        manager.add_task("birds", num_classes=10)
        assert manager.num_trainable("birds", heads=False) == expected
        assert manager.num_trainable("birds") == expected + 10 * (manager.feature_dim + 1)
        assert manager.counts("birds").frozen + manager.counts("birds").backbone == 85_798_656
    finally:
        manager.detach()


@pytest.mark.parametrize(("method", "options", "expected"), SWIN_COUNTS)
def test_trained_weights_of_four_tasks_on_swin(
    swin_t: nn.Module, method: str, options: dict[str, Any], expected: int
) -> None:
    manager = mtpeft.attach(swin_t, method, **options)
    try:
        for task in ("semseg", "parts", "saliency", "normals"):
            manager.add_task(task, num_classes=2)
            assert manager.num_trainable(task, heads=False) == expected
        assert manager.num_trainable(heads=False) == 4 * expected
    finally:
        manager.detach()


#: adapters of AIM in all blocks d^2 / 2 + 5 d / 4 each, over time in every second block, and 8 positions of 128 channels
AIM_ON_SWIN_B = 2 * 3_504_832 + 1_752_416 + 8 * 128


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("aim", {"num_frames": 8}, AIM_ON_SWIN_B),
        ("aim", {"num_frames": 8, "temporal_every": 1, "train_norm": True}, AIM_ON_SWIN_B + 1_752_416 + 2 * 1_024),
        ("ssf", {}, 22 * 12_032 + 4 * 128 + 2 * 1_024),
        ("ssf", {"merging_norms": True}, 22 * 12_032 + 4 * 128 + 2 * 1_024 + 2 * (512 + 1_024 + 2_048)),
    ],
)
def test_swin_b_as_in_the_authors_code(method: str, options: dict[str, Any], expected: int) -> None:
    """AIM: half of the blocks attend over time, the norm stays frozen. SSF: 22 d per block, none in patch merging."""
    assert trained("swin_base_patch4_window7_224", method, **options) == expected
