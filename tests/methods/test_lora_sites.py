"""LoRA at the projections of every attention family: fused or split, with the bias inside or outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import assert_close, attached
from timm.models.eva import Eva

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.testing import TINY, tiny_backbone
from mtpeft.testing.case import images, perturb

X = images(2, torch.float64)


def rows_of(attn: Any, kind: str) -> tuple[torch.Tensor, slice]:
    """The weight of q, k or v and its rows, by the family's own names."""
    position = "qkv".index(kind)
    if hasattr(attn, "q_proj") and attn.q_proj is not None:
        return getattr(attn, f"{kind}_proj").weight, slice(None)
    if hasattr(attn, "kv"):
        if kind == "q":
            return attn.q.weight, slice(None)
        width = attn.kv.weight.shape[0] // 2
        return attn.kv.weight, slice((position - 1) * width, position * width)
    width = attn.qkv.weight.shape[0] // 3
    return attn.qkv.weight, slice(position * width, (position + 1) * width)


@pytest.mark.parametrize("anatomy", [name for name in TINY if name != "convnext"])
@torch.no_grad()
def test_lora_is_an_edit_of_the_rows_of_q_k_and_v(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "lora", sites=("q", "k", "v"), rank=3, alpha=6.0)
    for i, path in enumerate(Anatomy(model).blocks):
        for kind in "qkv":
            weight, rows = rows_of(model.get_submodule(path).attn, kind)
            weight[rows] += 2.0 * sites[kind, i].lora_B @ sites[kind, i].lora_A
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


@pytest.mark.parametrize("anatomy", ["vit", "eva", "beit", "swinv2"])
@torch.no_grad()
def test_one_lora_on_a_fused_qkv(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "lora", sites=("qkv",), rank=3)
    for i, path in enumerate(Anatomy(model).blocks):
        model.get_submodule(path).attn.qkv.weight += sites["qkv", i].lora_B @ sites["qkv", i].lora_A
    backbone: Any = manager.backbone
    assert_close(backbone.forward_features(X), model.forward_features(X))


def eva(fused: bool) -> Any:
    return (
        Eva(
            img_size=64,
            patch_size=16,
            embed_dim=48,
            depth=2,
            num_heads=3,
            num_classes=0,
            use_rot_pos_emb=True,
            ref_feat_shape=(4, 4),
            qkv_fused=fused,
        )
        .double()
        .eval()
    )


@torch.no_grad()
def test_fused_and_split_projections_give_the_same_lora() -> None:
    fused: Any = tiny_like(eva(True))
    split = eva(False)
    weights = dict(fused.state_dict())
    for i in range(2):
        stem = f"blocks.{i}.attn."
        for kind, part in zip("qkv", weights.pop(f"{stem}qkv.weight").chunk(3), strict=True):
            weights[f"{stem}{kind}_proj.weight"] = part
        weights[f"{stem}q_proj.bias"], weights[f"{stem}v_proj.bias"] = (
            weights.pop(f"{stem}q_bias"),
            weights.pop(f"{stem}v_bias"),
        )
        weights.pop(f"{stem}k_bias", None)
    split.load_state_dict(weights)
    assert_close(fused.forward_features(X), split.forward_features(X))
    managers = []
    for model in (fused, split):
        torch.manual_seed(0)
        managers.append(mtpeft.attach(model, "lora", rank=4))
        managers[-1].add_task("birds", num_classes=3)
        perturb(managers[-1], std=0.2)
    assert_close(managers[0].features(X, "birds"), managers[1].features(X, "birds"))
    assert managers[0].num_trainable("birds") == managers[1].num_trainable("birds")


def tiny_like(model: Any) -> Any:
    """`model` with every vector made irregular, biases of q and v above all."""
    for parameter in model.parameters():
        if parameter.ndim <= 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def test_qkv_of_split_projections_means_all_three() -> None:
    manager = mtpeft.attach(tiny_backbone("eva02"), "lora", sites=("qkv",))
    assert [s.kind for s in manager.attachments[0].selected] == ["q", "k", "v"] * 2


def test_blocks_from_the_end_and_exclusions() -> None:
    manager = mtpeft.attach(tiny_backbone("swin"), "lora", sites=("q", "v", "proj"), blocks=(-1, 0), exclude=("proj",))
    assert [(s.block, s.kind) for s in manager.attachments[0].selected] == [(0, "q"), (0, "v"), (3, "q"), (3, "v")]
    manager = mtpeft.attach(tiny_backbone("swin"), "lora", exclude=("layers.0",))
    assert [s.block for s in manager.attachments[0].selected] == [2, 2, 3, 3]


def test_lora_needs_linear_layers() -> None:
    for anatomy, site in (("vit", "patch_embed"), ("vit", "after_mlp"), ("pvt_v2", "sr")):
        with pytest.raises(
            ConfigError, match=f"method 'lora' cannot be attached to .*: site '{site}' is not a linear layer; use q"
        ):
            mtpeft.attach(tiny_backbone(anatomy), "lora", sites=(site,))
