"""The backbones whose weights come with mtpeft. Importing this module makes them timm models like any other.

`timm.create_model("vit_mini_patch4_32", pretrained=True)` reads the packaged file and never asks the network.
Their cards (data, recipe, measured features) stand beside the files, in `mtpeft/backbones/weights`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

WEIGHTS = Path(__file__).parent / "weights"

default_cfgs = generate_default_cfgs(
    {
        "vit_mini_patch4_32.synthetic": {
            "file": str(WEIGHTS / "vit_mini_patch4_32.safetensors"),
            "num_classes": 0,
            "input_size": (3, 32, 32),
            "fixed_input_size": True,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        }
    }
)
"""Input normalisation of `vit_mini_patch4_32`: (x - 0.5) / 0.5 for x in [0, 1], each channel; inputs lie in [-1, 1]."""


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


if not is_model("vit_mini_patch4_32"):
    register_model(vit_mini_patch4_32)
