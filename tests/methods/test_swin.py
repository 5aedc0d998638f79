"""Prompts and relative-position tables on Swin: formulas, other methods beside them, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from naive import attached, tokens
from naive_swin import naive_swin

import mtpeft
from mtpeft.backbones.site import NEEDS
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, mixed_path, perturb

X = images(2, torch.float64)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_naive_swin_is_timm_s() -> None:
    model, _, _ = attached("swin", "linear_probe")
    assert [any(block.shift_size) for stage in model.layers for block in stage.blocks] == [False, True] * 2
    assert_close(naive_swin(model, X), model.forward_features(X))


@torch.no_grad()
def test_vpt_deep_gives_every_window_of_a_block_the_same_fresh_prompts() -> None:
    model, manager, sites = attached("swin", "vpt_deep", num_tokens=3)
    fresh = [sites["tokens", i].prompts for i in range(4)]
    assert [tuple(p.shape) for p in fresh] == [(3, 24), (3, 24), (3, 48), (3, 48)]
    expected = naive_swin(model, X, fresh)
    assert_close(tokens(manager, X), expected)
    assert (expected - model.forward_features(X)).abs().max() > 0.01


@pytest.mark.parametrize("first", [0, 1, 2])
@torch.no_grad()
def test_vpt_shallow_prompts_read_all_windows_and_pass_patch_merging(first: int) -> None:
    model, manager, sites = attached("swin", "vpt_shallow", num_tokens=3, blocks=(first,))
    fresh = [None] * first + [sites["tokens", first].prompts]
    expected = naive_swin(model, X, fresh)
    assert_close(tokens(manager, X), expected)
    ended = X.new_zeros(0, 24 if first == 0 else 48)  # the same prompts, gone after their first block
    assert (expected - naive_swin(model, X, [*fresh, ended])).abs().max() > 1e-3


@torch.no_grad()
def test_prompts_start_in_the_range_of_the_patch_embedding_at_every_stage() -> None:
    manager = mtpeft.attach(tiny_backbone("swin"), "vpt_deep", num_tokens=200)
    manager.add_task("birds", num_classes=3)
    bound = (6 / (3 * 4 * 4 + 24)) ** 0.5
    for _, prompts in manager.trainable_parameters():
        if prompts.shape[0] == 200:
            assert 0.98 * bound < prompts.abs().max() <= bound


@torch.no_grad()
def test_bitfit_trains_the_relative_position_tables_too() -> None:
    model, manager, sites = attached("swin", "bitfit", tables=True)
    before = naive_swin(model, X)
    blocks = [block for stage in model.layers for block in stage.blocks]
    tables = {i: site.bias for (kind, i), site in sites.items() if kind == "position_table"}
    assert sorted(tables) == [0, 1, 2, 3] and tables[2].shape == (49, 4)
    twin = manager.merge("birds")
    named = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.copy_(named[name])
    for i, table in tables.items():
        assert not torch.equal(blocks[i].attn.relative_position_bias_table, table)
        blocks[i].attn.relative_position_bias_table.copy_(table)
    expected = naive_swin(model, X)
    assert_close(tokens(manager, X), expected)
    assert_close(twin.forward_features(X), expected)  # type: ignore[operator]
    assert (expected - before).abs().max() > 0.01


@pytest.mark.parametrize("rows", [0.0, float("inf")])
def test_prompts_tables_adapters_and_low_rank_together_in_a_mixed_batch(rows: float) -> None:
    """Every method acts on the prompts as on any token, and each image has its own task's weights in all windows."""
    backbone = tiny_backbone("swin").double()
    manager = mtpeft.attach(
        backbone,
        [
            {"name": "vpt_shallow", "num_tokens": 2},
            {"name": "vpt_deep", "num_tokens": 3, "dropout": 0.0, "blocks": [1, 2]},
            {"name": "bitfit", "tables": True},
            {"name": "adaptformer", "bottleneck_dim": 4, "sites": ["parallel_attn", "parallel_mlp"], "dropout": 0.0},
            {"name": "lora", "sites": ["q", "v", "proj"], "rank": 2},
            {"name": "prefix_tuning", "num_tokens": 2, "calibrated": True},
        ],
    )
    for task in ("birds", "cars"):
        manager.add_task(task, num_classes=3)
    perturb(manager, std=0.1)
    with torch.no_grad(), mixed_path(rows):
        birds, cars = (manager(X, task) for task in ("birds", "cars"))
        mixed = manager(X, ["cars", "birds"])
    assert_close(mixed["cars"][1][0], cars[0])
    assert_close(mixed["birds"][1][0], birds[1])
    assert (birds - cars).abs().max() > 0.01


def test_methods_beside_shallow_prompts_train_through_them() -> None:
    """LoRA on the keys of the first block alone: its gradient through the prompts' own path is there."""
    manager = mtpeft.attach(
        tiny_backbone("swin"),
        [{"name": "vpt_shallow", "num_tokens": 2}, {"name": "lora", "sites": ["fc2"], "blocks": [0], "rank": 2}],
    )
    manager.add_task("birds", num_classes=3)
    perturb(manager)
    manager(images(2), "birds").sum().backward()
    assert all(p.grad is not None and p.grad.any() for _, p in manager.trainable_parameters())


@pytest.mark.parametrize(("anatomy", "method"), [("swin", "vpt_shallow"), ("swin", "vpt_deep"), ("vit", "vqt")])
def test_nothing_of_a_pass_stays_behind_under_checkpointing(anatomy: str, method: str) -> None:
    """A block that runs again may stop before its end; what hooks kept must not outlive the backward."""
    manager = mtpeft.attach(tiny_backbone(anatomy), method, num_tokens=2)
    manager.add_task("birds", num_classes=3)
    manager.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    expected = manager(images(2), "birds")
    expected.sum().backward()
    assert torch.equal(copy.deepcopy(manager)(images(2), "birds"), expected)


@pytest.mark.parametrize(
    ("anatomy", "method", "options", "site"),
    [
        ("swinv2", "vpt_deep", {}, "tokens"),
        ("pvt_v2", "vpt_shallow", {}, "tokens"),
        ("vit", "bitfit", {"tables": True}, "position_table"),
        ("swinv2", "bitfit", {"tables": True}, "position_table"),
    ],
)
def test_backbones_without_the_place_are_refused(anatomy: str, method: str, options: dict[str, Any], site: str) -> None:
    backbone = tiny_backbone(anatomy)
    with pytest.raises(
        ConfigError,
        match=rf"'{method}' cannot be attached to {type(backbone).__name__}: it needs {NEEDS[site]}, and ",
    ):
        mtpeft.attach(backbone, method, **options)


def test_a_saved_config_with_tables_stays_the_same() -> None:
    from mtpeft.methods.specification.bitfit import BitFitConfig

    config = BitFitConfig(tables=True)
    assert config.sites == ("biases", "position_table") and BitFitConfig(sites=config.sites, tables=True) == config
    assert BitFitConfig().sites == ("biases",)
