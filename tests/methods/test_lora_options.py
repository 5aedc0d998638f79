"""LoRA's options: the scale of rsLoRA, and PiSSA's start at the principal singular vectors of each weight."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from naive import assert_close, attached
from test_lora_sites import rows_of

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, mixed_path, perturb

X = images(2, torch.float64)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 2.0), (6.0, 3.0)])
@torch.no_grad()
def test_rank_stabilized_scale_is_alpha_over_the_root_of_the_rank(alpha: float | None, scale: float) -> None:
    model, manager, sites = attached("vit", "lora", rank=4, alpha=alpha, rank_stabilized=True)
    for i, block in enumerate(model.blocks):
        for kind in "qv":
            weight, rows = rows_of(block.attn, kind)
            weight[rows] += scale * sites[kind, i].lora_B @ sites[kind, i].lora_A
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


def cut(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """The best approximation of a rank, from the eigenvectors of W W^T."""
    _, vectors = torch.linalg.eigh(weight @ weight.T)
    leading = vectors[:, -rank:]
    return leading @ leading.T @ weight


@pytest.mark.parametrize("anatomy", ["vit", "beit", "eva02", "swin", "pvt_v2"])
@torch.no_grad()
def test_pissa_trains_the_principal_part_of_the_weight(anatomy: str) -> None:
    """W - W_r + s B A, where W_r is what s B A was at the start: the residual is frozen."""
    model, manager, sites = attached(anatomy, "lora", sites=("q", "k"), rank=3, alpha=6.0, init="pissa")
    for i, path in enumerate(Anatomy(model).blocks):
        for kind in "qk":
            weight, rows = rows_of(model.get_submodule(path).attn, kind)
            weight[rows] += 2.0 * sites[kind, i].lora_B @ sites[kind, i].lora_A - cut(weight[rows], 3)
    backbone: Any = manager.backbone
    torch.testing.assert_close(backbone.forward_features(X), model.forward_features(X), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("init", ["pissa", "pissa_fast"])
def test_pissa_starts_at_the_singular_vectors_and_at_the_backbone(init: str) -> None:
    backbone: Any = tiny_backbone("vit").double()
    torch.manual_seed(0)
    with torch.no_grad():
        plain = backbone.forward_features(X)
        manager = mtpeft.attach(backbone, "lora", sites=("proj",), rank=3, alpha=12.0, init=init)
        manager.add_task("birds", num_classes=3)
        assert torch.equal(backbone.forward_features(X), plain)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for i, own in enumerate(bank.sites.values()):
        weight = backbone.blocks[i].attn.proj.weight.detach()
        values = torch.linalg.svdvals(weight)[:3]
        tolerance = {"atol": 1e-9 if init == "pissa" else 1e-3, "rtol": 1e-9 if init == "pissa" else 1e-2}
        a, b = own.lora_A.detach(), own.lora_B.detach()
        for gram in (a @ a.T, b.T @ b):  # orthogonal, each of length sqrt(S / s)
            torch.testing.assert_close(gram, torch.diag(values / 4), **tolerance)
        torch.testing.assert_close(4 * b @ a, cut(weight, 3), **tolerance)
    manager(X, "birds").sum().backward()
    for name, parameter in manager.trainable_parameters("birds"):
        assert parameter.grad is not None and parameter.grad.any(), name  # A and B at once, unlike LoRA


@torch.no_grad()
def test_pissa_serves_mixed_batches_folds_and_is_saved(tmp_path: Path) -> None:
    manager = mtpeft.attach(tiny_backbone("vit").double(), "lora", rank=3, init="pissa", learnable_scale=True)
    for task in ("birds", "cars"):
        manager.add_task(task, num_classes=3)
    perturb(manager, std=0.2)
    manager.eval()
    for slice_above in (0.0, math.inf):
        with mixed_path(slice_above):
            mixed = manager(X, ["cars", "birds"])
        for row, task in ((0, "cars"), (1, "birds")):
            assert_close(mixed[task][1], manager(X[row : row + 1], task))
    plain: Any = manager.merge("cars")
    assert_close(plain(X), manager(X, "cars"))
    manager.save(tmp_path / "saved")
    loaded = mtpeft.load(tmp_path / "saved", tiny_backbone("vit").double()).eval()
    assert torch.equal(loaded(X, "birds"), manager(X, "birds"))
    # A0 and B0 of four sites, once for both tasks
    assert manager.counts("birds").buffers == manager.counts("cars").buffers == 4 * 3 * (48 + 48)


@torch.no_grad()
def test_dora_starts_at_the_principal_part_with_the_lengths_of_the_whole_weight() -> None:
    model, manager, sites = attached("vit", "dora", rank=3, init="pissa")
    for i, block in enumerate(model.blocks):
        for kind in "qv":
            weight, rows = rows_of(block.attn, kind)
            own = sites[kind, i]
            turned = weight[rows] - cut(weight[rows], 3) + own.lora_B @ own.lora_A
            weight[rows] = own.magnitude[:, None] * turned / turned.norm(dim=1, keepdim=True)
    backbone: Any = manager.backbone
    torch.testing.assert_close(backbone.forward_features(X), model.forward_features(X), atol=1e-8, rtol=1e-8)
    fresh: Any = tiny_backbone("vit").double()
    manager = mtpeft.attach(fresh, "dora", rank=3, init="pissa")
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for site in manager.attachments[0].selected:
        assert_close(bank.sites[site.key].magnitude, site.own_weight().norm(dim=1))


def test_pissa_refuses_a_rank_that_a_layer_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"init='pissa' needs 25 singular vectors \(rank\), .* has 24"):
        mtpeft.attach(tiny_backbone("swin"), "lora", rank=25, init="pissa")


def test_both_go_to_peft(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    for options in (
        {"init": "pissa", "alpha": 4.0},
        {"rank_stabilized": True},
        {"init": "pissa_fast", "sites": ("qkv",)},
    ):
        manager = mtpeft.attach(tiny_backbone("vit"), "lora", rank=2, **options)  # type: ignore[arg-type]
        manager.add_task("birds", num_classes=3)
        perturb(manager)
        folder = tmp_path / "_".join(options)
        assert mtpeft.export(manager.eval(), "birds", to="peft", path=folder).difference < 1e-4
        back = mtpeft.from_peft(folder, tiny_backbone("vit"), task="birds").eval()
        with torch.no_grad():
            torch.testing.assert_close(back(X.float(), "birds"), manager(X.float(), "birds"), atol=1e-4, rtol=1e-4)
