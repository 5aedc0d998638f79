"""KronA and KAdaptation: Kronecker products written out, their shapes, starts and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from naive import assert_close, attached
from test_lora_sites import rows_of

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.testing import TINY, tiny_backbone
from mtpeft.testing.case import images

X = images(2, torch.float64)


def kron(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Entry ((i1, j1), (i2, j2)) is a[i1, i2] b[j1, j2]: blocks a[i1, i2] b."""
    return torch.cat([torch.cat([entry * b for entry in row], dim=1) for row in a])


@pytest.mark.parametrize("anatomy", [name for name in TINY if name != "convnext"])  # it has no queries
@torch.no_grad()
def test_krona_is_an_edit_of_the_rows_of_q_and_v(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "krona", scale=0.7)
    for i, path in enumerate(Anatomy(model).blocks):
        for kind in "qv":
            weight, rows = rows_of(model.get_submodule(path).attn, kind)
            weight[rows] += 0.7 * kron(sites[kind, i].A, sites[kind, i].B)
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


@torch.no_grad()
def test_krona_of_a_given_shape_on_layers_that_are_not_square() -> None:
    model, manager, sites = attached("vit", "krona", sites=("qkv", "fc1", "fc2"), a_shape=(6, 16))
    for i, block in enumerate(model.blocks):
        for kind, layer in (("qkv", block.attn.qkv), ("fc1", block.mlp.fc1), ("fc2", block.mlp.fc2)):
            own = sites[kind, i]
            assert own.A.shape == (6, 16)
            layer.weight += kron(own.A, own.B)
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


def test_krona_by_default_takes_factors_of_as_many_weights() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "krona", sites=("q", "fc1", "fc2"))
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.attachments[0].weights.bank("birds")
    shapes = {s.kind: bank.sites[s.key] for s in manager.attachments[0].selected}
    found = {kind: (tuple(own.A.shape), tuple(own.B.shape)) for kind, own in shapes.items()}
    assert found == {"q": ((8, 6), (6, 8)), "fc1": ((16, 6), (12, 8)), "fc2": ((8, 12), (6, 16))}
    for own in shapes.values():
        assert own.A.any() and own.A.abs().max() <= 1 / math.sqrt(own.A.shape[1]) and not own.B.any()


def test_krona_refuses_shapes_that_do_not_divide_the_layers() -> None:
    with pytest.raises(ConfigError, match=r"method 'krona' .* a_shape=\(5, 6\) must divide .* has 48 and 48"):
        mtpeft.attach(tiny_backbone("vit"), "krona", a_shape=(5, 6))
    with pytest.raises(ConfigError, match="a_shape is"):
        mtpeft.attach(tiny_backbone("vit"), "krona", a_shape=(6,))
    with pytest.raises(ConfigError, match=r"method 'krona' .*: site 'patch_embed' is not a linear layer"):
        mtpeft.attach(tiny_backbone("vit"), "krona", sites=("patch_embed",))


@pytest.mark.parametrize("anatomy", [name for name in TINY if name != "convnext"])  # it has no queries
@torch.no_grad()
def test_kadaptation_is_an_edit_of_weight_and_bias(anatomy: str) -> None:
    """In row form H (in, out); the slow factors of a kind are those of all layers with as many terms."""
    model, manager, _ = attached(anatomy, "kadaptation", rank=2, scale=3.0)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for site in manager.attachments[0].selected:
        own, terms = bank.sites[site.key], math.gcd(32, site.dim)
        a, c = bank.model.a[f"{site.kind}{terms}"], bank.model.c[f"{site.kind}{terms}"]
        b = bank.model.b[f"block{site.block}"]
        h = sum(kron(a[i] @ c[i], own.u[i] @ own.w[i]) for i in range(terms))
        rows = slice(None) if site.rows is None else slice(*site.rows)

        def change(layer: Any, args: Any, y: torch.Tensor, rows: slice = rows, h: Any = h, b: Any = b) -> torch.Tensor:
            y = y.clone()
            y[..., rows] += 3.0 * args[0] @ h + b
            return y

        layer: Any = model.get_submodule(site.path)
        if site.bypassed:  # the attention reads the layer's weight and holds its bias
            layer.weight[rows] += 3.0 * h.T
            name = f"{site.kind}_bias"
            getattr(model.get_submodule(site.path.rpartition(".")[0]), name).add_(b)
        else:
            layer.register_forward_hook(change)
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


def test_kadaptation_shares_slow_factors_and_a_bias_and_starts_at_the_backbone() -> None:
    backbone: Any = tiny_backbone("vit")
    with torch.no_grad():
        plain = backbone.forward_features(X.float())
        manager = mtpeft.attach(backbone, "kadaptation", dropout=0.0)
        manager.add_task("birds", num_classes=3)
        assert torch.equal(backbone.forward_features(X.float()), plain)
    bank: Any = manager.attachments[0].weights.bank("birds")
    assert set(bank.model.a) == {"q16", "v16"} and set(bank.model.b) == {"block0", "block1"}
    for own in bank.sites.values():
        bound = math.sqrt(6 / (3 + 1))  # of every factor (3, 1)
        assert own.u.any() and own.u.abs().max() <= bound and not own.w.any()
    assert all(factor.any() and factor.abs().max() <= 0.01 for factor in bank.model.a.values())
    manager(X.float(), "birds").sum().backward()
    for own in bank.sites.values():
        assert own.w.grad.any()  # not dead, unlike two zero factors
    assert all(bias.grad.any() for bias in bank.model.b.values())


def test_kadaptation_drops_entries_of_the_increment_in_training_alone() -> None:
    _, manager, sites = attached("vit", "kadaptation", terms=4, dropout=0.5, scale=1.0)
    bank: Any = manager.attachments[0].weights.bank("birds")
    own, one = sites["q", 0], torch.eye(48, dtype=torch.float64)
    with torch.no_grad():
        bias = bank.model.b["block0"]
        whole = own(one, torch.zeros_like(one), model=bank.model) - bias
        manager.train()
        dropped = own(one, torch.zeros_like(one), model=bank.model) - bias
    kept = (dropped - 2 * whole).abs() < 1e-9
    assert (kept | (dropped.abs() < 1e-9)).all() and 0.4 < kept.double().mean() < 0.6


def test_kadaptation_refusals() -> None:
    for options, reason in (
        ({"terms": 5}, "terms=5 must divide the widths of all layers, .* has 48 and 48"),
        ({"sites": ("q", "fc1")}, "its layers share a bias within a block; .* is 192 wide beside 48"),
        ({"sites": ("norm1",)}, "site 'norm1' is not a linear layer of a block"),
    ):
        with pytest.raises(
            ConfigError, match=f"method 'kadaptation' cannot be attached to VisionTransformer: .*{reason}"
        ):
            mtpeft.attach(tiny_backbone("vit"), "kadaptation", **options)  # type: ignore[arg-type]
