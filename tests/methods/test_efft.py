"""EFFT: increments of two groups of layers out of shared outer factors, their starts, dropout on factors, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from naive import NaiveViT, assert_close, attached, tokens

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

X = images(2, torch.float64)


@pytest.mark.parametrize("core", ["per_block", "shared"])
@torch.no_grad()
def test_efft_on_all_six_layers(core: str) -> None:
    model, manager, sites = attached("vit", "efft", rank=5, scale=0.3, core=core)
    bank: Any = manager.attachments[0].weights.bank("birds")

    def increment(kind: str, i: int) -> torch.Tensor:
        group = "mlp" if kind.startswith("fc") else "attention"
        slice_ = bank.model.C[kind] if core == "shared" else sites[kind, i].core
        return 0.3 * bank.model.U[group] @ slice_ @ bank.model.V[group]

    plain = NaiveViT(
        model,
        qkv=lambda y, u, i: y + u @ torch.cat([increment(kind, i) for kind in "qkv"], dim=1),
        proj=lambda y, x, i: y + x @ increment("proj", i),
        fc1=lambda y, x, i: y + x @ increment("fc1", i),
        fc2=lambda y, x, i: y + x @ increment("fc2", i).T,
    )
    assert increment("fc2", 0).shape == (48, 192)
    assert_close(tokens(manager, X), plain(X))


@pytest.mark.parametrize("init", ["vv", "vu", "uv", "uu"])
def test_one_outer_factor_of_each_group_starts_at_zero(init: str) -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "efft", rank=4, init=init)
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for group, zero, widths in (("attention", init[0], (48, 48)), ("mlp", init[1], (48, 192))):
        u, v = bank.model.U[group], bank.model.V[group]
        assert (u.shape, v.shape) == ((widths[0], 4), (4, widths[1]))
        assert not (v if zero == "v" else u).any()
        random, width = (u, widths[0]) if zero == "v" else (v, widths[1])
        assert random.any() and random.abs().max() <= math.sqrt(6 / (width + 4))
    largest = {"q": 0.0, "fc1": 0.0}
    for site in manager.attachments[0].selected:
        kind = "fc1" if site.kind.startswith("fc") else "q"
        largest[kind] = max(largest[kind], bank.sites[site.key].core.abs().max().item())
    for kind, slices in (("q", 4 * 2), ("fc1", 2 * 2)):  # of two blocks
        bound = math.sqrt(6 / (2 * 4 * slices))
        assert 0.8 * bound < largest[kind] <= bound


def test_dropout_is_on_the_entries_of_the_factors() -> None:
    _, manager, sites = attached("vit", "efft", rank=6, dropout=0.5)
    bank: Any = manager.attachments[0].weights.bank("birds")
    one = torch.eye(48, dtype=torch.float64)
    with torch.no_grad():
        whole, _ = sites["q", 0].factors(one, model=bank.model)
        assert_close(whole, bank.model.U["attention"] @ sites["q", 0].core)
        manager.train()
        _, right = sites["q", 0].factors(one, model=bank.model)
    v = bank.model.V["attention"].detach()
    doubled, zero = (right - 2 * v).abs() < 1e-9, right == 0
    assert (doubled | zero).all() and doubled.any() and zero.any()


def test_efft_refusals() -> None:
    for anatomy, options, reason in (
        ("swin", {}, "its factors need one shape in all blocks, .* beside"),
        ("vit", {"sites": ("qkv",)}, "it acts on q, k, v, proj, fc1, fc2, not on 'qkv'"),
        ("eva02", {"core": "shared"}, "core='shared' is one core for fc1 of all blocks, and here a block has several"),
    ):
        with pytest.raises(ConfigError, match=f"method 'efft' cannot be attached to .*: .*{reason}"):
            mtpeft.attach(tiny_backbone(anatomy), "efft", **options)  # type: ignore[arg-type]
