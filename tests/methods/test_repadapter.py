"""RepAdapter: the bottleneck put into the stream before attention and MLP, its groups, start and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from naive import NaiveViT, assert_close, attached, linear, tokens

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb

X = images(2, torch.float64)


def adapted(site: Any, u: torch.Tensor, groups: int, scale: float) -> torch.Tensor:
    """u + s (W_u (W_d u + b_d) + b_u), group by group: outputs of a group see its hidden units alone."""
    hidden = linear(site.down, u)
    width, h = u.shape[-1] // groups, hidden.shape[-1] // groups
    parts = [hidden[..., g * h : (g + 1) * h] @ site.up[g * width : (g + 1) * width].T for g in range(groups)]
    return u + scale * (torch.cat(parts, dim=-1) + site.up_bias)


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@torch.no_grad()
def test_repadapter_changes_what_attention_and_mlp_read(anatomy: str, groups: int) -> None:
    model, manager, sites = attached(anatomy, "repadapter", groups=groups, scale=0.5)
    assert {kind for kind, _ in sites} == {"qkv", "fc1"}

    def before(kind: str) -> Any:
        return lambda u, *context: adapted(sites[kind, context[-1]], u, groups, 0.5)

    class Adapted(NaiveViT):
        """The adapters act on what leaves the norms."""

        def attention(self, block: Any, u: torch.Tensor, i: int) -> torch.Tensor:
            return super().attention(block, before("qkv")(u, i), i)

        def mlp(self, block: Any, u: torch.Tensor, i: int) -> torch.Tensor:
            return super().mlp(block, before("fc1")(u, i), i)

    assert_close(tokens(manager, X), Adapted(model)(X))


@pytest.mark.parametrize("anatomy", ["beit", "eva", "swin", "swinv2"])
@torch.no_grad()
def test_it_changes_the_input_of_the_layer_behind(anatomy: str) -> None:
    """`repattn` too: an adapter on the input of every layer chosen, at attention in windows and with biases elsewhere."""
    model, manager, _ = attached(anatomy, "repadapter", sites=("qkv", "fc1") if anatomy != "eva" else ("qkv",))
    bank: Any = manager.attachments[0].weights.bank("birds")
    for site in manager.attachments[0].selected:
        layer: Any = model.get_submodule(site.path)
        if site.bypassed:
            layer = model.get_submodule(site.path.rpartition(".")[0])
        layer.register_forward_pre_hook(
            lambda module, args, own=bank.sites[site.key]: (adapted(own, args[0], 2, 1.0), *args[1:])
        )
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


def test_only_the_first_layer_starts_random() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "repadapter")
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for own in bank.sites.values():
        assert own.down.weight.any() and own.down.weight.abs().max() <= math.sqrt(6 / (48 + 8))
        assert not any(tensor.any() for tensor in (own.down.bias, own.up, own.up_bias))
        assert own.up.shape == (48, 4)


@torch.no_grad()
def test_it_folds_beside_a_lora_on_the_same_layer() -> None:
    manager = mtpeft.attach(tiny_backbone("vit").double(), [{"name": "lora", "sites": ("qkv",)}, "repadapter"])
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    plain: Any = manager.eval().merge("birds")
    assert_close(plain(X), manager(X, "birds"))


def test_repadapter_refusals() -> None:
    for anatomy, options, reason in (
        ("vit", {"groups": 3}, "groups=3 must divide bottleneck_dim=8"),
        ("vit", {"groups": 5, "bottleneck_dim": 10}, "groups=5 must divide the width, .* has 48"),
        ("vit", {"sites": ("norm1",)}, "site 'norm1' is not a linear layer that it could fold into"),
        ("eva02", {"sites": ("qkv",)}, "it is one adapter before one layer, and q, k and v of a block are several"),
        ("eva02", {"sites": ("fc1",)}, "it is one adapter before one layer, and fc1 of a block are several"),
    ):
        with pytest.raises(ConfigError, match=f"method 'repadapter' cannot be attached to .*: .*{reason}"):
            mtpeft.attach(tiny_backbone(anatomy), "repadapter", **options)  # type: ignore[arg-type]
