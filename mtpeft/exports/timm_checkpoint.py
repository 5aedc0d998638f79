"""`--to timm`: the merged backbone as a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mtpeft.exports.copies import folds, inputs
from mtpeft.exports.graph import LARGE, SMALL, difference, quiet
from mtpeft.exports.request import Request, Written
from mtpeft.manager.merging import as_linear

WEIGHTS, CONFIG = "model.safetensors", "config.json"
#: what timm's configuration of the source says of other weights than these
DROPPED = (
    "url",
    "file",
    "hf_hub_id",
    "hf_hub_filename",
    "source",
    "architecture",
    "tag",
    "custom_load",
    "label_offset",
)
SIZES = (
    "input_size",
    "test_input_size",
    "min_input_size",
    "pool_size",
    "test_crop_pct",
    "fixed_input_size",
    "num_classes",
)
#: backbones that come with mtpeft: a model of timm's of the same class, and what makes it one of ours
EMBEDDED: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_mini_patch4_32": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 4},
    ),
    "swin_mini_patch4_64": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": 64,
            "embed_dim": 32,
            "depths": [2, 2, 4, 2],
            "num_heads": [1, 2, 4, 8],
            "window_size": 4,
            "drop_path_rate": 0.0,
        },
    ),
}


@torch.no_grad()
def to_timm(request: Request, folder: Path) -> Written:
    """model.safetensors and config.json, compared as timm loads them."""
    manager, task = request.manager, request.task
    refused = folds(manager)
    if refused is not None:
        raise request.refusal(f"{refused} does not fold into the backbone; --to onnx and --to torch take it as it is")
    if as_linear(manager.head(task)) is None:
        raise request.refusal(
            "a timm model ends in a linear classifier, and its head is none; use --to onnx or --to torch"
        )
    if request.frames is not None:
        raise request.refusal("a timm model takes images, and the task is one of clips; use --to onnx or --to torch")
    plain = manager.merge(task)
    save_file({name: tensor.contiguous() for name, tensor in plain.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(_config(request, plain), indent=2) + "\n")
    try:
        with quiet():
            loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:  # timm raises what it likes
        text = " ".join(str(error).split())[:200]
        raise request.refusal(f"timm does not load what was written ({type(error).__name__}: {text})") from error
    found = []
    for count in (SMALL, LARGE):
        images = inputs(manager, count, seed=count)
        found.append(difference(manager(images, task), loaded(images), request.what))
    return Written(WEIGHTS, max(found), "merged")


def _config(request: Request, plain: Any) -> dict[str, Any]:
    """What timm reads: the model's name and arguments, its classes, and how images are shown to it."""
    manager, facts = request.manager, request.facts
    source = dict(getattr(manager.backbone, "pretrained_cfg", None) or {})
    name = (source.get("architecture") or facts.backbone or "").partition(".")[0]
    if not timm.is_model(name):
        raise request.refusal(
            "timm has no name for its backbone, so timm cannot make it again; use --to onnx or --to torch"
        )
    arguments = {**getattr(manager.backbone, "_model_args", {}), **facts.options}
    arguments = {k: v for k, v in arguments.items() if k not in ("num_classes", "pretrained", "checkpoint_path")}
    architecture, own = EMBEDDED.get(name, (name, {}))
    size = manager.anatomy.input_size
    if own or tuple(source.get("input_size") or size) != size:
        arguments = {**own, **arguments, "img_size": list(size[1:])}
    shown = facts.shown(manager)
    pretrained = {
        **{key: value for key, value in source.items() if key not in (*DROPPED, *SIZES) and value is not None},
        **shown,
        "num_classes": plain.num_classes,
        "fixed_input_size": bool(source.get("fixed_input_size", isinstance(plain, VisionTransformer))),
    }
    config = {
        "architecture": architecture,
        "num_classes": plain.num_classes,
        "num_features": plain.num_features,
        "global_pool": getattr(plain, "global_pool", None),
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }
    if classes := facts.classes.get(request.task):
        config["label_names"] = list(classes)
    return {key: value for key, value in config.items() if value not in (None, {})}
