"""What methods with tokens of their own do to features that are a mean over tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.eva import Eva
from torch import nn

import mtpeft
from mtpeft.testing import tiny_backbone
from mtpeft.testing.backbones import IMAGE_SIZE
from mtpeft.testing.case import images, perturb

PROMPTS = 3


def eva_mean() -> nn.Module:
    """Timm's DINOv3 averages the patches, and has its norm before that."""
    torch.manual_seed(0)
    return Eva(
        img_size=IMAGE_SIZE, patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=0, use_rot_pos_emb=True,
        use_abs_pos_emb=False, num_reg_tokens=2, use_fc_norm=False, ref_feat_shape=(4, 4),
    ).eval()  # fmt: skip


def backbone(name: str) -> Any:
    return eva_mean() if name == "dinov3" else tiny_backbone(name)


def attached(name: str, method: str, **options: Any) -> Any:
    torch.manual_seed(1)
    manager = mtpeft.attach(backbone(name), method, **options)
    manager.add_task("birds", num_classes=3)
    perturb(manager, seed=5)
    return manager.eval()


@torch.no_grad()
def by_hand(name: str, manager: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class tokens, prompts and patches after the last block and the norm before pooling, for prompts of every block."""
    model = backbone(name)
    bank = manager.attachments[0].weights.bank("birds")
    prompts = [module.prompts for module in bank.sites.values()]
    rope = None
    if name == "dinov3":
        tokens, rope = model._pos_embed(model.patch_embed(x))
        rope_of = {"rope": rope}
    else:
        tokens, rope_of = model.norm_pre(model._pos_embed(model.patch_embed(x))), {}
    count, prefix = PROMPTS, model.num_prefix_tokens
    for block, prompt in zip(model.blocks, prompts, strict=True):
        extra = prompt.expand(len(x), -1, -1)
        block.attn.num_prefix_tokens = prefix + count
        tokens = block(torch.cat([tokens[:, :prefix], extra, tokens[:, prefix:]], dim=1), **rope_of)
        left = tokens[:, prefix : prefix + count]
        tokens = torch.cat([tokens[:, :prefix], tokens[:, prefix + count :]], dim=1)
    norm = model.norm
    return norm(tokens[:, :prefix]), norm(left), norm(tokens[:, prefix:])


@pytest.mark.parametrize("pool_prompts", [True, False])
@pytest.mark.parametrize("name", ["mae", "dinov3"])
def test_prompts_count_in_the_mean_as_in_the_authors_code(name: str, pool_prompts: bool) -> None:
    manager = attached(name, "vpt_deep", num_tokens=PROMPTS, dropout=0.0, pool_prompts=pool_prompts)
    x = images(2)
    _, prompts, patches = by_hand(name, manager, x)
    counted = torch.cat([prompts, patches], dim=1) if pool_prompts else patches
    with torch.no_grad():
        expected = manager.backbone.fc_norm(counted.mean(dim=1))
        torch.testing.assert_close(manager.features(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["vpt_deep", "vpt_shallow"])
@pytest.mark.parametrize("name", ["mae", "dinov3", "swin", "beit", "vit", "deit_distilled"])
def test_prompts_move_a_mean_alone_and_no_map(name: str, method: str) -> None:
    options = {"num_tokens": PROMPTS, "dropout": 0.0}
    with_them, without = (attached(name, method, pool_prompts=pool, **options) for pool in (True, False))
    for manager in (with_them, without):
        manager.add_task("depth", head="dense_linear", channels=2)
    without.load_state_dict(with_them.state_dict())
    x = images(2)
    with torch.no_grad():
        one, other = (manager.features(x, "birds") for manager in (with_them, without))
        by_token = getattr(with_them.backbone, "global_pool", "token") == "token"
        assert torch.equal(one, other) == by_token
        assert torch.equal(with_them(x, "depth"), without(x, "depth"))
        mixed = with_them(x, ["birds", "depth"])
        torch.testing.assert_close(mixed["birds"][1], with_them(x, "birds")[:1], atol=1e-5, rtol=1e-4)


def test_pooled_prompts_are_trained() -> None:
    """Deep prompts of the last block have no other way to the features than attention and the mean."""
    manager = attached("swin", "vpt_deep", num_tokens=PROMPTS)
    manager(images(2), "birds").square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for _, p in manager.trainable_parameters())


@pytest.mark.parametrize("name", ["mae", "dinov3", "vit"])
def test_lst_features_are_its_own_tokens_pooled_as_the_backbone_pools(name: str) -> None:
    """The mean over the side network's patches, or its class token; no norm of the backbone comes after it."""
    manager = attached(name, "lst", reduction=4)
    x = images(2)
    with torch.no_grad():
        tokens = manager.backbone.forward_features(x)
        prefix = manager.anatomy.prefix_tokens
        expected = tokens[:, 0] if name == "vit" else tokens[:, prefix:].mean(dim=1)
        torch.testing.assert_close(manager.features(x), expected, atol=1e-6, rtol=1e-5)
