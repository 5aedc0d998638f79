"""DoRA: the decomposed weight written out, its norm without forming the weight, what its norm passes back, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import NaiveViT, assert_close, attached, tokens
from test_lora_sites import rows_of

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.methods.reparameter.dora import LEAST, row_norms
from mtpeft.testing import TINY, tiny_backbone
from mtpeft.testing.case import images, perturb

X = images(2, torch.float64)


def decomposed(weight: torch.Tensor, site: Any, scale: float) -> torch.Tensor:
    """m (W + s B A) / ||W + s B A||, row by row."""
    turned = weight + scale * site.lora_B @ site.lora_A
    return site.magnitude[:, None] * turned / (turned**2).sum(dim=1, keepdim=True).sqrt()


@pytest.mark.parametrize("anatomy", [name for name in TINY if name != "convnext"])  # it has no queries
@torch.no_grad()
def test_dora_is_an_edit_of_the_rows_of_q_k_and_v(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "dora", sites=("q", "k", "v"), rank=3, alpha=6.0)
    for i, path in enumerate(Anatomy(model).blocks):
        for kind in "qkv":
            weight, rows = rows_of(model.get_submodule(path).attn, kind)
            weight[rows] = decomposed(weight[rows], sites[kind, i], 2.0)
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


@pytest.mark.parametrize("anatomy", ["vit", "eva", "beit", "swinv2"])
@torch.no_grad()
def test_one_dora_on_a_fused_qkv_whose_bias_may_be_elsewhere(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "dora", sites=("qkv",), rank=3)
    for i, path in enumerate(Anatomy(model).blocks):
        weight = model.get_submodule(path).attn.qkv.weight
        weight.copy_(decomposed(weight, sites["qkv", i], 1.0))
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


@torch.no_grad()
def test_dora_on_every_linear_layer() -> None:
    model, manager, sites = attached("vit", "dora", sites=("qkv", "proj", "fc1", "fc2"), rank=4, rank_stabilized=True)

    def new(kind: str, weight: Any, bias: Any, x: torch.Tensor, i: int) -> torch.Tensor:
        return x @ decomposed(weight, sites[kind, i], 2.0).T + bias  # s = 4 / sqrt(4)

    layers = {
        "qkv": lambda block: block.attn.qkv,
        "proj": lambda block: block.attn.proj,
        "fc1": lambda block: block.mlp.fc1,
        "fc2": lambda block: block.mlp.fc2,
    }

    def change(kind: str) -> Any:
        def at(y: torch.Tensor, x: torch.Tensor, i: int) -> torch.Tensor:
            layer = layers[kind](model.blocks[i])
            return new(kind, layer.weight, layer.bias, x, i)

        return at

    assert_close(tokens(manager, X), NaiveViT(model, **{kind: change(kind) for kind in layers})(X))


def test_lengths_start_as_those_of_the_weight() -> None:
    backbone: Any = tiny_backbone("vit").double()
    manager = mtpeft.attach(backbone, "dora", sites=("qkv", "fc2"), rank=2)
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for site in manager.attachments[0].selected:
        own = bank.sites[site.key]
        assert_close(own.magnitude.detach(), backbone.get_parameter(site.weight).detach().norm(dim=1))
        assert not own.lora_B.any() and own.lora_A.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_start_is_the_backbone_in_other_types_too(dtype: torch.dtype) -> None:
    backbone: Any = tiny_backbone("vit").to(dtype)
    pictures = X.to(dtype)
    with torch.no_grad():
        plain = backbone.forward_features(pictures)
        manager = mtpeft.attach(backbone, "dora")
        manager.add_task("birds", num_classes=3)
        assert torch.equal(backbone.forward_features(pictures), plain)


@pytest.mark.parametrize(("out", "dim", "rank", "size"), [(48, 16, 4, 1.0), (5, 40, 8, 30.0), (7, 7, 7, 1e-4)])
def test_norms_without_the_weight_are_those_of_the_weight(out: int, dim: int, rank: int, size: float) -> None:
    draw = torch.Generator().manual_seed(out)
    weight, left, right = (
        torch.randn(*shape, generator=draw, dtype=torch.float64, requires_grad=True)
        for shape in ((out, dim), (out, rank), (rank, dim))
    )
    found = row_norms(weight, size * left, right, torch.float64)
    expected = (weight + size * left @ right).norm(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    probe = torch.randn(out, generator=draw, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(found @ probe, (left, right)),
        torch.autograd.grad(expected @ probe, (left, right)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_a_row_of_zeros_has_a_length_that_can_be_divided_by() -> None:
    weight = torch.zeros(2, 3)
    assert torch.equal(row_norms(weight, torch.zeros(2, 1), torch.ones(1, 3), torch.float32), torch.full((2,), LEAST))
    backbone: Any = tiny_backbone("vit")
    with torch.no_grad():
        backbone.blocks[0].attn.qkv.weight[3] = 0
        plain = backbone.forward_features(X.float())
    manager = mtpeft.attach(backbone, "dora")
    manager.add_task("birds", num_classes=3)
    loss = manager(X.float(), "birds").sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in manager.trainable_parameters("birds"))
    with torch.no_grad():
        torch.testing.assert_close(backbone.forward_features(X.float()), plain, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_are_those_of_the_written_out_weight(detach: bool) -> None:
    """One layer alone: x -> W' x + b, its norm a constant or not."""
    backbone: Any = tiny_backbone("vit").double()
    manager = mtpeft.attach(backbone, "dora", sites=("fc1",), blocks=(0,), rank=3, detach_norm=detach)
    manager.add_task("birds", num_classes=3)
    (site,) = manager.attachments[0].selected
    bank: Any = manager.attachments[0].weights.bank("birds")
    own, layer = bank.sites[site.key], backbone.blocks[0].mlp.fc1
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    x, probe = (torch.randn(4, n, generator=draw, dtype=torch.float64) for n in (site.dim, site.dim_out))
    x.requires_grad_()
    turned = layer.weight.detach() + own.lora_B @ own.lora_A
    length = turned.norm(dim=1, keepdim=True)
    weight = own.magnitude[:, None] * turned / (length.detach() if detach else length)
    expected = x @ weight.T + layer.bias.detach()
    found = own(x, nn_linear(layer, x))
    assert_close(found, expected)
    wanted = (own.lora_A, own.lora_B, own.magnitude, x)
    for one, other in zip(
        torch.autograd.grad((found * probe).sum(), wanted),
        torch.autograd.grad((expected * probe).sum(), wanted),
        strict=True,
    ):
        assert_close(one, other)


def nn_linear(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return x @ layer.weight.detach().T + layer.bias.detach()


@pytest.mark.parametrize("methods", [["lora", "dora"], ["bitfit", "dora"], ["dora", "ssf"]])
def test_it_folds_together_with_others(methods: list[str]) -> None:
    manager = mtpeft.attach(tiny_backbone("vit").double(), methods)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    manager.eval()
    with torch.no_grad():
        plain: Any = manager.merge("birds")
        assert_close(plain(X), manager(X, "birds"))


def test_dora_needs_linear_layers() -> None:
    for anatomy, site in (("vit", "patch_embed"), ("vit", "after_mlp"), ("pvt_v2", "sr")):
        with pytest.raises(
            ConfigError, match=f"method 'dora' cannot be attached to .*: site '{site}' is not a linear layer; use q"
        ):
            mtpeft.attach(tiny_backbone(anatomy), "dora", sites=(site,))
