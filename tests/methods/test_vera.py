"""VeRA: the formula with matrices drawn here, one pair for all layers and tasks, what is saved of it."""

from __future__ import annotations

import copy
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
from mtpeft.testing import TINY, tiny_backbone
from mtpeft.testing.case import images, perturb

X = images(2, torch.float64)


def drawn(rank: int, dim: int, out: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, dim), then B (out, rank): uniform within sqrt(6 / fan_in)."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.empty(rank, dim).uniform_(-math.sqrt(6 / dim), math.sqrt(6 / dim), generator=draw)
    return a.double(), torch.empty(out, rank).uniform_(
        -math.sqrt(6 / rank), math.sqrt(6 / rank), generator=draw
    ).double()


@pytest.mark.parametrize("anatomy", [name for name in TINY if name != "convnext"])  # it has no queries
@torch.no_grad()
def test_vera_is_an_edit_of_the_rows_of_q_and_v(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "vera", rank=7, seed=3)
    chosen = manager.attachments[0].selected
    a, b = drawn(7, max(s.dim for s in chosen), max(s.dim_out for s in chosen), seed=3)
    for i, path in enumerate(Anatomy(model).blocks):
        for kind in "qv":
            weight, rows = rows_of(model.get_submodule(path).attn, kind)
            own, (out, dim) = sites[kind, i], weight[rows].shape
            weight[rows] += torch.diag(own.b) @ b[:out] @ torch.diag(own.d) @ a[:, :dim]
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


@torch.no_grad()
def test_layers_of_other_sizes_take_the_leading_part() -> None:
    model, manager, sites = attached("vit", "vera", sites=("qkv", "proj", "fc1", "fc2"), rank=5)
    a, b = drawn(5, 192, 192, seed=0)  # the largest input is that of fc2, the largest output that of fc1
    for i, block in enumerate(model.blocks):
        for kind, layer in (
            ("qkv", block.attn.qkv),
            ("proj", block.attn.proj),
            ("fc1", block.mlp.fc1),
            ("fc2", block.mlp.fc2),
        ):
            own, (out, dim) = sites[kind, i], layer.weight.shape
            layer.weight += own.b[:, None] * b[:out] @ (own.d[:, None] * a[:, :dim])
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


def test_the_vectors_start_as_a_tenth_and_zero() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "vera")
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for own in bank.sites.values():
        assert torch.equal(own.d, torch.full((256,), 0.1)) and torch.equal(own.b, torch.zeros(48))
    assert len({name.rsplit(".", 1)[-1] for name, _ in manager.trainable_parameters("birds")} - {"weight", "bias"}) == 2


def test_all_tasks_share_one_pair_of_matrices_and_a_copy_has_its_own() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "vera", rank=4)
    manager.add_task("birds", num_classes=3)
    manager.add_task("cars", num_classes=3)
    manager.double()
    (attachment,) = manager.methods
    for task in ("birds", "cars"):
        assert attachment.weights.bank(task).common["constants"] is attachment.constants
    assert attachment.constants is not None and attachment.constants.A.dtype is torch.float64
    twin = copy.deepcopy(manager)
    (other,) = twin.methods
    assert other.weights.bank("birds").common["constants"] is other.constants is not attachment.constants
    with torch.no_grad():
        perturb(manager)
        twin.load_state_dict(manager.state_dict())
        torch.testing.assert_close(twin(X, "birds"), manager(X, "birds"), atol=0, rtol=0)
        other.constants.A.zero_()  # type: ignore[union-attr, operator]
        assert not torch.equal(twin(X, "birds"), manager(X, "birds"))


@pytest.mark.parametrize("saved", [False, True])
@torch.no_grad()
def test_a_checkpoint_holds_the_matrices_on_demand_alone(saved: bool, tmp_path: Path) -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "vera", rank=6, seed=1, save_projections=saved).eval()
    for task in ("birds", "cars"):
        manager.add_task(task, num_classes=3)
    perturb(manager)
    held = {name for name in manager.trained_state() if name.endswith(("constants.A", "constants.B"))}
    assert len(held) == (2 if saved else 0)
    assert manager.counts("birds").buffers == (6 * (48 + 48) if saved else 0)
    manager.save(tmp_path / "saved")
    loaded = mtpeft.load(tmp_path / "saved", tiny_backbone("vit")).eval()
    assert torch.equal(loaded(X.float(), "cars"), manager(X.float(), "cars"))


@torch.no_grad()
def test_the_seed_alone_decides_the_matrices() -> None:
    def matrix(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        (attachment,) = mtpeft.attach(tiny_backbone("vit"), "vera", rank=4, seed=seed).methods
        assert attachment.constants is not None
        return attachment.constants.A  # type: ignore[return-value]

    assert torch.equal(matrix(0, 1), matrix(0, 2))
    assert not torch.equal(matrix(0, 1), matrix(1, 1))


def test_vera_needs_linear_layers() -> None:
    with pytest.raises(
        ConfigError, match=r"method 'vera' cannot be attached to .*: site 'norm1' is not a linear layer"
    ):
        mtpeft.attach(tiny_backbone("vit"), "vera", sites=("norm1",))


@pytest.mark.parametrize("rank", [3, 200])
def test_a_step_is_the_formula_whichever_way_takes_less_work(rank: int) -> None:
    """Few columns go through A and B, many through their product."""
    _, manager, _ = attached("vit", "vera", rank=rank)
    key = manager.attachments[0].selected[0].key
    module: Any = manager.attachments[0].weights.bank(manager.tasks[0]).sites[key]
    constants, rows = manager.attachments[0].constants, 100
    torch.manual_seed(0)
    x, y = torch.randn(2, rows // 2, module.dim).double(), torch.randn(2, rows // 2, module.dim_out).double()
    x.requires_grad_()
    assert module._dense(rows) == (rank == 200)
    a, b = module._slices(constants)
    update = torch.diag(module.b) @ b @ torch.diag(module.d) @ a
    found, expected = module(x, y, constants=constants), y + x @ update.T
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    leaves, given = (x, module.b, module.d), torch.randn_like(found)
    pairs = zip(*(torch.autograd.grad(out, leaves, given) for out in (found, expected)), strict=True)
    for gradient, right in pairs:
        torch.testing.assert_close(gradient, right, atol=1e-9, rtol=1e-9)
