"""The instrumented forwards equal timm's own, in every family, fused or not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers import RotaryEmbeddingCat
from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.attention import InstrumentedAttention
from mtpeft.backbones.attention_families import attention_family
from mtpeft.testing import TINY, tiny_backbone
from mtpeft.testing.case import images

FAMILIES = {"swin": "window", "swinv2": "cosine_window", "pvt_v2": "reduced", "pvt": "reduced"}


def instrument(backbone: Any, fused: bool | None = None) -> list[InstrumentedAttention]:
    anatomy = Anatomy(backbone)
    attentions = [backbone.get_submodule(path).attn for path in anatomy.blocks]
    for attn in attentions:
        if fused is not None and hasattr(attn, "fused_attn"):
            attn.fused_attn = fused
        attn.forward = InstrumentedAttention(attn, anatomy.prefix_tokens)
    return [attn.forward for attn in attentions]


def irregular(backbone: nn.Module) -> nn.Module:
    """Every parameter and bias buffer moved, so that a forgotten one shows."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return backbone


#: no attention, and one of its own kind
WITHOUT = ("convnext", "hiera")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("anatomy", [name for name in TINY if name not in WITHOUT])
@torch.no_grad()
def test_equal_to_the_native_forward(anatomy: str, fused: bool) -> None:
    backbone: Any = irregular(tiny_backbone(anatomy).double())
    x = images(2, torch.float64)
    expected = backbone.forward_features(x)
    for instrumented in instrument(backbone, fused):
        assert instrumented.family == FAMILIES.get(anatomy, "plain")
    torch.testing.assert_close(backbone.forward_features(x), expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("anatomy", ["eva", "beit", "swinv2"])
@torch.no_grad()
def test_biases_outside_the_projection_count(anatomy: str) -> None:
    """These families keep q and v biases beside qkv; BEiT, EVA and SwinV2 apply them with the fused projection."""
    backbone: Any = tiny_backbone(anatomy).double()
    x = images(2, torch.float64)
    before = backbone.forward_features(x)
    for module in backbone.modules():
        if getattr(module, "q_bias", None) is not None:
            module.q_bias += 0.3
            module.v_bias -= 0.2
    native = backbone.forward_features(x)
    assert not torch.allclose(native, before)
    instrument(backbone)
    torch.testing.assert_close(backbone.forward_features(x), native, atol=1e-12, rtol=1e-9)


OTHER = {
    "eva with a bias added apart": (
        "eva_giant_patch14_224",
        {"depth": 1, "embed_dim": 48, "num_heads": 3, "patch_size": 16},
    ),
    "beit v2": ("beitv2_base_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
    "query and key norms": (
        "vit_base_patch16_224",
        {"depth": 2, "embed_dim": 48, "num_heads": 3, "qk_norm": True, "scale_attn_norm": True},
    ),
    "dinov3": ("vit_small_patch16_dinov3", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
    "siglip with pooling by attention": ("vit_base_patch16_siglip_224", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
    "linear spatial reduction": (
        "pvt_v2_b2_li",
        {"depths": (1, 1, 1, 1), "embed_dims": (16, 24, 32, 48), "num_heads": (1, 1, 2, 3)},
    ),
    "swin of a size that is no multiple of its window": (
        "swin_tiny_patch4_window7_224",
        {"depths": (2, 2), "embed_dim": 24, "num_heads": (1, 2)},
    ),
}


@pytest.mark.parametrize("what", OTHER)
@torch.no_grad()
def test_equal_in_other_timm_models(what: str) -> None:
    name, options = OTHER[what]
    size = {} if name.startswith("pvt") else {"img_size": 64}
    backbone: Any = irregular(timm.create_model(name, num_classes=0, **options, **size).double().eval())
    x = images(2, torch.float64)
    if name.startswith("pvt"):
        backbone.default_cfg = {"input_size": (3, 64, 64)}
    expected = backbone.forward_features(x)
    instrument(backbone)
    torch.testing.assert_close(backbone.forward_features(x), expected, atol=1e-10, rtol=1e-8)


@torch.no_grad()
def test_masks_reach_attention() -> None:
    backbone: Any = tiny_backbone("vit").double()
    x = images(2, torch.float64)
    boolean = torch.ones(17, 17, dtype=torch.bool).tril()
    additive = torch.randn(17, 17, dtype=torch.float64)
    for mask in (boolean, additive):
        plain = copy.deepcopy(backbone)
        expected = plain.forward_features(x, attn_mask=mask)
        instrument(plain)
        torch.testing.assert_close(plain.forward_features(x, attn_mask=mask), expected, atol=1e-12, rtol=1e-9)
        assert not torch.allclose(expected, backbone.forward_features(x))


@torch.no_grad()
def test_extra_tokens_have_no_position() -> None:
    """Rotary positions move patch tokens as before, whatever stands between them and the class token."""
    backbone: Any = tiny_backbone("eva").double()
    attn = backbone.blocks[0].attn
    instrumented = InstrumentedAttention(attn, prefix_tokens=1)
    rope = RotaryEmbeddingCat(16, in_pixels=False, feat_shape=[4, 4], ref_feat_shape=[4, 4]).get_embed().double()
    q = torch.randn(2, 3, 17, 16, dtype=torch.float64)
    expected = instrumented._rotate(q, rope)
    torch.testing.assert_close(expected[:, :, 0], q[:, :, 0])
    assert not torch.allclose(expected[:, :, 2:], q[:, :, 2:])
    instrumented.extra_tokens = 3
    prompts = torch.randn(2, 3, 3, 16, dtype=torch.float64)
    found = instrumented._rotate(torch.cat([q[:, :, :1], prompts, q[:, :, 1:]], dim=2), rope)
    torch.testing.assert_close(found, torch.cat([expected[:, :, :1], prompts, expected[:, :, 1:]], dim=2))


@torch.no_grad()
def test_relative_positions_are_zero_for_extra_tokens() -> None:
    backbone: Any = tiny_backbone("beit")
    instrumented = InstrumentedAttention(backbone.blocks[0].attn, prefix_tokens=1)
    own = instrumented._position_bias(torch.zeros(1), None, None)
    assert own is not None and own.shape[-2:] == (17, 17)
    instrumented.extra_tokens = 2
    wide = instrumented._position_bias(torch.zeros(1), None, None)
    assert wide is not None
    keep = [0, *range(3, 19)]
    torch.testing.assert_close(wide[..., keep, :][..., keep], own)
    assert not wide[..., 1:3, :].any() and not wide[..., :, 1:3].any()


def test_families_are_told_apart_by_what_a_module_holds() -> None:
    assert attention_family(nn.Linear(2, 2)) is None
    assert attention_family(nn.MultiheadAttention(4, 2)) is None
    other = nn.Module()
    other.proj, other.num_heads = nn.Linear(2, 2), 1
    assert attention_family(other) is None
