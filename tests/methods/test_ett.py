"""eTT: prefixes of all layers from one network, and offsets behind every branch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from naive import NaiveViT, assert_close, attached, linear, tokens
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

X = images(2, torch.float64)


@pytest.fixture(scope="module")
def vit_s() -> Iterator[nn.Module]:
    yield timm.create_model("vit_small_patch16_224", num_classes=0)


@pytest.mark.parametrize(
    ("model", "tokens", "expected"),
    [("vit_s", 5, 1_852_608 + 9_216 + 5 * 384), ("vit_b", 10, 7_391_616 + 18_432 + 10 * 768)],
)
def test_counts_and_start(request: Any, model: str, tokens: int, expected: int) -> None:
    manager = mtpeft.attach(request.getfixturevalue(model), "ett", num_tokens=tokens)
    try:
        manager.add_task("birds", num_classes=2)
        assert manager.num_trainable("birds", heads=False) == expected
        bank: Any = manager.attachments[0].weights.bank("birds")
        offsets = [site.offset for site in bank.sites.values() if site.offset is not None]
        assert len(offsets) == 24 and not any(offset.any() for offset in offsets)
    finally:
        manager.detach()


@torch.no_grad()
@pytest.mark.parametrize(("anatomy", "blocks"), [("vit", (0, 1)), ("dinov2", (0, 1)), ("vit", (1,))])
def test_prefixes_and_offsets(anatomy: str, blocks: tuple[int, ...]) -> None:
    model, manager, sites = attached(anatomy, "ett", num_tokens=3, reparam_dim=5, blocks=blocks)
    bank: Any = manager.attachments[0].weights.bank("birds")
    network = bank.model
    made = linear(network.up, torch.tanh(linear(network.down, network.tokens))).view(3, len(blocks), 2, 48)

    def extend(pair: tuple[torch.Tensor, torch.Tensor], i: int) -> tuple[torch.Tensor, ...]:
        if i not in blocks:
            return pair
        own = made[:, blocks.index(i)]
        return tuple(torch.cat([own[:, j].expand(2, -1, -1), pair[j]], dim=1) for j in range(2))

    def offset(kind: str) -> Any:
        return lambda y, x, u, i: y + sites[kind, i].offset if i in blocks else y

    changes = {"attention_branch": offset("parallel_attn"), "mlp_branch": offset("parallel_mlp")}
    assert_close(tokens(manager, X), NaiveViT(model, kv=extend, **changes)(X))


@pytest.mark.parametrize(
    ("anatomy", "options", "why"),
    [
        ("swin", {}, "one network makes the prefixes of all layers, and their widths are 24, 48"),
        ("vit", {"sites": ("parallel_mlp",)}, "its network makes prefixes, and the sites hold none"),
        ("vit", {"sites": ("prefix", "fc1")}, "it cannot act at fc1"),
    ],
)
def test_what_does_not_fit_is_refused(anatomy: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        mtpeft.attach(tiny_backbone(anatomy), "ett", **options)
