"""The backbones whose weights come with mtpeft. Importing this module makes them timm models like any other.

`timm.create_model("vit_mini_patch4_32", pretrained=True)` reads the packaged file and never asks the network, and so does
`swin_mini_patch4_64`. Their cards (data, recipe, measured features) stand beside the files, in `mtpeft/backbones/weights`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model, swin_transformer
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

WEIGHTS = Path(__file__).parent / "weights"


def _config(name: str, size: int, classifier: str, **more: Any) -> dict[str, Any]:
    """What timm has to know about a packaged file."""
    return {
        "file": str(WEIGHTS / f"{name}.safetensors"),
        "num_classes": 0,
        "input_size": (3, size, size),
        "fixed_input_size": True,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.proj",
        "classifier": classifier,
        "license": "apache-2.0",
        **more,
    }


default_cfgs = generate_default_cfgs(
    {
        "vit_mini_patch4_32.synthetic": _config("vit_mini_patch4_32", 32, "head"),
        "swin_mini_patch4_64.synthetic": _config("swin_mini_patch4_64", 64, "head.fc", pool_size=(2, 2)),
    }
)
"""Input normalisation of both: (x - 0.5) / 0.5 for x in [0, 1], each channel; inputs lie in [-1, 1]."""


def vit_mini_patch4_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """A ViT of 1.2 million parameters: images (B, 3, 32, 32), 64 patches of 4 x 4 and a class token of width 128.

    6 blocks, 4 heads, MLP ratio 4. Without `num_classes` there is no head and the output is the class token (B, 128).
    Other `img_size` values work: the position embedding is resampled.
    """
    arguments = dict(img_size=32, patch_size=4, embed_dim=128, depth=6, num_heads=4, mlp_ratio=4.0)
    out_indices = kwargs.pop("out_indices", 3)
    model: VisionTransformer = build_model_with_cfg(
        VisionTransformer,
        "vit_mini_patch4_32",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        **{**arguments, **kwargs},
    )
    return model


def swin_mini_patch4_64(pretrained: bool = False, **kwargs: Any) -> swin_transformer.SwinTransformer:
    """A Swin of 2.7 million parameters for dense work: images (B, 3, 64, 64), 16 x 16 patches of 4 x 4 pixels.

    Four stages of 2, 2, 4 and 2 blocks, of widths 32, 64, 128 and 256 and strides 4, 8, 16 and 32; windows of 4 x 4,
    1, 2, 4 and 8 heads, MLP ratio 4. Without `num_classes` there is no head and the output is the mean (B, 256) of the
    last map. Other `img_size` values work: the position biases are resampled where the windows change.
    """
    arguments = dict(
        img_size=64,
        patch_size=4,
        embed_dim=32,
        depths=(2, 2, 4, 2),
        num_heads=(1, 2, 4, 8),
        window_size=4,
        mlp_ratio=4.0,
        drop_path_rate=0.0,
    )
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3))
    model: swin_transformer.SwinTransformer = build_model_with_cfg(
        swin_transformer.SwinTransformer,
        "swin_mini_patch4_64",
        pretrained,
        pretrained_filter_fn=swin_transformer.checkpoint_filter_fn,
        feature_cfg={"out_indices": out_indices, "flatten_sequential": True},
        **{**arguments, **kwargs},
    )
    return model


for _model in (vit_mini_patch4_32, swin_mini_patch4_64):
    if not is_model(_model.__name__):
        register_model(_model)
