"""Tiny versions of timm's special families: parallel blocks, hybrids, maps, pyramids, relative positions, other maths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from timm.models.nest import Nest
from torch import nn

FLAT: dict[str, Any] = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}


def _made(name: str, **options: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, num_classes=0, **options)
    return model.eval()


def _hieradet() -> nn.Module:
    small: dict[str, Any] = {"embed_dim": 24, "num_heads": 1, "stages": (1, 2), "window_spec": (4, 2)}
    model: Any = _made("hieradet_small", **small, global_att_blocks=(2,), global_pos_size=(4, 4), q_pool=1)
    model.default_cfg = {"input_size": (3, 64, 64)}
    return model


def _nest() -> nn.Module:
    return Nest(img_size=64, embed_dims=(24, 36, 48), num_heads=(1, 2, 3), depths=(1, 1, 1), num_classes=0).eval()


#: name -> a function that makes the model; all take images of 64 x 64
SPECIAL: dict[str, Callable[[], nn.Module]] = {
    "sam": partial(
        _made, "samvit_base_patch16", **FLAT, neck_chans=24, window_size=2, global_attn_indexes=(1,), use_abs_pos=True
    ),
    "relpos": partial(_made, "vit_relpos_small_patch16_224", **FLAT),
    "relpos_shared": partial(_made, "vit_srelpos_small_patch16_224", **FLAT),
    "relpos_table": partial(_made, "vit_relpos_small_patch16_224", **FLAT, rel_pos_type="bias", class_token=True),
    "relpos_post": partial(_made, "vit_relpos_base_patch16_rpn_224", **FLAT),
    "nest": _nest,
    "hieradet": _hieradet,
    "swinv2_cr": partial(
        _made, "swinv2_cr_tiny_224", img_size=64, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4
    ),
    "parallel": partial(_made, "vit_small_patch16_18x2_224", **FLAT),
    "fused": partial(_made, "vit_base_patch16_xp_224", **FLAT),
    "hybrid": partial(_made, "vit_tiny_r_s16_p8_224", **FLAT),
    "differential": partial(_made, "vit_small_patch16_224", **FLAT, attn_layer="diff"),
}
#: models that no method can be attached to
UNSUPPORTED = ("resnet10t", "convit_tiny")
