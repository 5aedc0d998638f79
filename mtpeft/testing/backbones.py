"""Tiny timm models with random weights: one of every anatomy, for tests that must be quick and need no download."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.hiera import Hiera
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.pvt import PyramidVisionTransformer
from mtpeft.backbones.t2t_vit import T2TViT

IMAGE_SIZE = 64
_FLAT: dict[str, Any] = dict(img_size=IMAGE_SIZE, patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=0)
_SWIN: dict[str, Any] = dict(
    img_size=IMAGE_SIZE, patch_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=0
)


def _pvt() -> nn.Module:
    model = PyramidVisionTransformerV2(
        depths=(1, 1), embed_dims=(24, 48), num_heads=(1, 2), sr_ratios=(4, 2), mlp_ratios=(4, 4), num_classes=0
    )
    model.default_cfg = {"input_size": (3, IMAGE_SIZE, IMAGE_SIZE)}  # type: ignore[assignment]
    return model


def _convnext() -> nn.Module:
    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 48), ls_init_value=0.5, num_classes=0)
    model.default_cfg = {"input_size": (3, IMAGE_SIZE, IMAGE_SIZE)}  # type: ignore[assignment]
    return model


#: anatomy -> a function that makes the model; weights follow torch's global random state
TINY: dict[str, Callable[[], nn.Module]] = {
    "vit": partial(VisionTransformer, **_FLAT),
    "deit_distilled": partial(VisionTransformerDistilled, **_FLAT),
    "dinov2": partial(VisionTransformer, **_FLAT, reg_tokens=4, init_values=0.1, no_embed_class=True),
    "clip": partial(VisionTransformer, **_FLAT, pre_norm=True, norm_layer=partial(LayerNorm, eps=1e-5)),
    "mae": partial(VisionTransformer, **_FLAT, global_pool="avg"),
    "eva": partial(Eva, **_FLAT, init_values=0.1, use_rot_pos_emb=True, ref_feat_shape=(4, 4)),
    "eva02": partial(
        Eva,
        **_FLAT,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        mlp_ratio=4 * 2 / 3,
        ref_feat_shape=(4, 4),
    ),
    "beit": partial(Beit, **_FLAT, init_values=0.1, use_rel_pos_bias=True, use_abs_pos_emb=False),
    "swin": partial(SwinTransformer, **_SWIN),
    "swinv2": partial(SwinTransformerV2, **_SWIN),
    "pvt_v2": _pvt,
    "pvt": partial(
        PyramidVisionTransformer,
        img_size=IMAGE_SIZE,
        depths=(1, 1, 1, 2),
        embed_dims=(8, 16, 24, 48),
        num_heads=(1, 2, 3, 6),
        mlp_ratios=(4, 4, 4, 4),
        num_classes=0,
    ),
    "t2t_vit": partial(
        T2TViT, img_size=IMAGE_SIZE, embed_dim=48, depth=2, num_heads=3, token_dim=8, mlp_ratio=4, num_classes=0
    ),
    "convnext": _convnext,
    "hiera": partial(
        Hiera,
        img_size=(IMAGE_SIZE, IMAGE_SIZE),
        embed_dim=24,
        stages=(1, 2),
        q_pool=1,
        mask_unit_size=(2, 2),
        mask_unit_attn=(True, False),
        num_classes=0,
    ),
}


def tiny_backbone(anatomy: str, seed: int = 0) -> nn.Module:
    """A tiny model of one anatomy in eval mode; every vector that timm starts at zero or one is made irregular.

    Zero biases and unit norms would hide mistakes.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TINY[anatomy]()
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
            elif parameter.ndim == 2:
                parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


#: sizes of ViT-B/16 by the letters of `mtpeft.methods.formula`
VIT_BASE = {"L": 12, "d": 768, "m": 3072, "n": 196, "p": 16, "h": 12}


def vit_base() -> Anatomy:
    """The anatomy of a ViT-B/16 whose weights have shapes and no values: quick to make, and enough to count."""
    with torch.device("meta"):
        return Anatomy(VisionTransformer(num_classes=0))
