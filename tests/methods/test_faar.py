"""FAAR: its formula, its start and its counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import NaiveViT, attached, gelu, norm
from shrinking import adapter, adapters, shrink
from torch import nn

import mtpeft
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

T = torch.Tensor
SHARED, TASK, SHARED_LENGTHS, TASK_LENGTHS = 16 * 4_416, 4 * 12 * 1_440, 39_744, 34_560
OWN, FINAL_NORM, DECODERS = 4_896 + 23_040 + 23_322, 1_536, 1_946_624
PATHS = {"qkv": "attn-qkv", "proj": "attn-proj", "fc1": "mlp-fc1", "fc2": "mlp-fc2"}


# the formula -------------------------------------------------------------------------------------------------------


def plain_dora(weight: T, bias: T, part: Any, x: T, into: T, scale: float = 3.0) -> T:
    """m / ||V|| (W x + a B A into) + b of the ranks that are left; x is what the frozen product sees."""
    kept = [i for i, place in enumerate(part.place.tolist()) if place < int(part.rank)]
    low = scale * part.lora_B[:, kept] @ part.lora_A[kept]
    gain = part.magnitude / ((weight + low) ** 2).sum(1).sqrt()
    return gain * (x @ weight.T + into @ low.T) + bias


@pytest.mark.parametrize("shrunk", [False, True])
@torch.no_grad()
def test_equals_its_formula(shrunk: bool) -> None:
    """Shared adapters in the shared pass; the task's own way through proj, fc1 and fc2 of the last block."""
    plain, manager, sites = attached("vit", "faar", rank=3, task_rank=4, scale=3.0, final_norm=True)
    plain.load_state_dict(manager.backbone.state_dict())  # norms and the patch embedding were moved as well
    if shrunk:
        for module in adapters(manager):
            shrink(module, [0.1, 5.0, 4.0, 0.2][: len(module.score)])
            assert int(module.rank) == 2 and module.place.tolist()[1:3] == [0, 1]
    kept: dict[Any, T] = {}

    def layer(kind: str) -> Any:
        def change(y: T, x: T, i: int) -> T:
            kept[kind, i] = x
            own = plain.blocks[i].get_submodule(PATHS[kind].replace("-", "."))
            return plain_dora(own.weight, own.bias, sites[kind, i].adapter, x, x)

        return change

    def enters(x: T, i: int) -> T:
        kept["entry", i] = x
        return x

    x = images(2, torch.float64)
    NaiveViT(plain, tokens=enters, **{kind: layer(kind) for kind in PATHS})(x)
    last = len(plain.blocks) - 1
    streams: Any = manager.attachments[0].weights.tasks["task=birds"][str(last)].adapters  # type: ignore[union-attr, index]
    block = plain.blocks[last]

    def own(kind: str, into: T) -> T:
        frozen = block.get_submodule(PATHS[kind].replace("-", "."))
        return plain_dora(frozen.weight, frozen.bias, streams[kind], kept[kind, last], into)

    y = kept["entry", last] + own("proj", kept["proj", last])
    y = y + own("fc2", gelu(own("fc1", norm(block.norm2, y))))
    expected = norm(plain.norm, y)[:, 0]
    torch.testing.assert_close(manager.features(x, "birds"), expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_starts_at_the_backbone() -> None:
    backbone = tiny_backbone("vit").double().eval()
    expected = backbone(images(2, torch.float64))
    manager: Any = mtpeft.attach(backbone, "faar", final_norm=True)
    manager.add_task("depth", head=backbone.get_classifier())
    torch.testing.assert_close(manager.eval()(images(2, torch.float64), "depth"), expected, rtol=0, atol=1e-10)
    assert all((module.lora_B == 0).all() and module.lora_A.any() for module in adapters(manager))


@torch.no_grad()
def test_a_shared_adapter_folds() -> None:
    module = adapter()
    shrink(module, [1.0, 0.0, 7.0, 0.0])
    torch.nn.init.uniform_(module.magnitude, 0.5, 2.0)
    layer: Any = module.site.module
    x = torch.randn(5, layer.in_features, dtype=torch.float64)
    weight, bias = module.eval().merged(layer.weight, layer.bias)
    torch.testing.assert_close(nn.functional.linear(x, weight, bias), module(x, layer(x)), rtol=0, atol=1e-10)
    assert not torch.equal(weight, layer.weight)


# counts ------------------------------------------------------------------------------------------------------------


def on_swin_t(backbone: nn.Module, **options: Any) -> Any:
    manager = mtpeft.attach(backbone, "faar", **options)
    for task, channels in {"semseg": 21, "parts": 7, "saliency": 1, "normals": 3}.items():
        manager.add_task(task, head={"name": "hrnet_merged", "channels": channels})
    return manager


@pytest.mark.parametrize(("rank", "expected"), [(64, 8_945_664), (5, 698_880)])
def test_counts_of_four_tasks_on_swin_t(swin_t: nn.Module, rank: int, expected: int) -> None:
    """The two parts with a rank, the lengths, the backbone's own 52,794, and decoders."""
    assert rank * (SHARED + TASK) == expected
    manager = on_swin_t(swin_t, rank=rank, task_rank=rank, final_norm=True)
    try:
        encoder = expected + SHARED_LENGTHS + TASK_LENGTHS + OWN + FINAL_NORM
        assert OWN + FINAL_NORM == 52_794 and manager.num_trainable(heads=False) == encoder
        assert manager.num_trainable() == encoder + DECODERS
    finally:
        manager.detach()


def test_deleted_ranks_are_not_counted(swin_t: nn.Module) -> None:
    """From 64 ranks to 5 everywhere: the count of 5, 2.77 M with the final norm and the decoders."""
    manager = on_swin_t(swin_t)
    try:
        for module in adapters(manager):
            shrink(module, [0.001] * 30 + [1.0] * 5 + [0.0] * 29)
        few = 5 * (SHARED + TASK) + SHARED_LENGTHS + TASK_LENGTHS + OWN
        assert manager.num_trainable() == few + DECODERS
        assert round((few + FINAL_NORM + DECODERS) / 1e6, 2) == 2.77
        counts = manager.counts("parts")
        assert counts.method == 5 * (SHARED + TASK // 4) + SHARED_LENGTHS + TASK_LENGTHS // 4
        assert manager.num_trainable("parts", heads=False) == counts.method + OWN
        manager.freeze_task("parts")
        assert manager.num_trainable(heads=False) == few - 5 * TASK // 4 - TASK_LENGTHS // 4
    finally:
        manager.detach()
