"""Images that are not square: what a backbone for any size gives is what its twin made for that size gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError, DataError
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import TINY, tiny_backbone
from mtpeft.testing.backbones import IMAGE_SIZE
from mtpeft.testing.case import perturb

SIZES = [(32, 64), (64, 32), (48, 80)]
FLAT: dict[str, Any] = dict(patch_size=16, embed_dim=48, depth=4, num_heads=3, num_classes=0)
ROTARY: dict[str, Any] = dict(
    **FLAT, use_abs_pos_emb=False, use_rot_pos_emb=True, num_reg_tokens=2, rope_rotate_half=True, rope_type="dinov3"
)
SWIN: dict[str, Any] = dict(
    patch_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=0, always_partition=True
)
DYNAMIC: dict[str, Any] = dict(dynamic_img_size=True, img_size=IMAGE_SIZE)
ANY: dict[str, Any] = dict(strict_img_size=False, img_size=IMAGE_SIZE)
#: what a backbone of each kind is made by, and what makes it take any size
KINDS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "vit": (partial(VisionTransformer, **FLAT), DYNAMIC),
    "registers": (partial(VisionTransformer, **FLAT, reg_tokens=4, no_embed_class=True), DYNAMIC),
    "distilled": (partial(VisionTransformerDistilled, **FLAT), DYNAMIC),
    "eva": (partial(Eva, **FLAT, use_rot_pos_emb=True, ref_feat_shape=(4, 4)), DYNAMIC),
    "dinov3": (partial(Eva, **ROTARY), DYNAMIC),
    "swin": (partial(SwinTransformer, **SWIN), ANY),
    "swinv2": (partial(SwinTransformerV2, **SWIN), ANY),
}
HEADS: dict[str, dict[str, Any]] = {
    "dense_linear": {"channels": 2},
    "stage_linear": {"channels": 2},
    "segformer": {"channels": 2, "embed_dim": 8},
}
#: methods that read the map of tokens, with options, and whether they see clips
SPATIAL: dict[str, tuple[str, dict[str, Any], bool]] = {
    "convpass": ("convpass", {"dropout": 0.0}, False),
    "st_adapter": ("st_adapter", {"position": "both", "kernel": (3, 3, 3), "bottleneck_dim": 4}, True),
}


def pair(kind: str, size: tuple[int, int]) -> tuple[nn.Module, nn.Module]:
    """The backbone for any size, and its twin of the same weights made for `size`."""
    make, options = KINDS[kind]
    torch.manual_seed(0)
    free = make(**options).eval()
    for parameter in free.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    fixed = make(img_size=size).eval()
    weights = free.state_dict()
    if "pos_embed" in weights:
        resampled: Any = copy.deepcopy(free)
        resampled.set_input_size(img_size=size)
        weights["pos_embed"] = resampled.pos_embed
    fixed.load_state_dict(weights)
    return free, fixed


def managed(backbone: nn.Module, method: Any, heads: dict[str, dict[str, Any]], **options: Any) -> TaskManager:
    torch.manual_seed(1)
    manager = mtpeft.attach(backbone, method, **options)
    for name, head in heads.items():
        manager.add_task(name, head=name, **head)
    perturb(manager)
    return manager.eval()


def inputs(size: tuple[int, int], clips: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, *((2,) if clips else ()), *size, generator=generator)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", SPATIAL)
@pytest.mark.parametrize("kind", KINDS)
def test_any_size_gives_what_the_twin_made_for_it_gives(kind: str, method: str, size: tuple[int, int]) -> None:
    name, options, clips = SPATIAL[method]
    free, fixed = (managed(b, name, HEADS, **options) for b in pair(kind, size))
    images = inputs(size, clips)
    for head in HEADS:
        with torch.no_grad():
            out, expected = free(images, head), fixed(images, head)
        assert out.shape[-2:] == size and out.std() > 0
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["adaptformer", "vpt_deep", "convpass"])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_follow_each_other(kind: str, method: str) -> None:
    """Images of several sizes through one manager, checkpointing on, their backwards all at the end: as each alone."""
    backbone, _ = pair(kind, SIZES[0])
    options: dict[str, Any] = {"bottleneck_dim": 4} if method == "adaptformer" else {"dropout": 0.0}
    head = {"dense_linear": HEADS["dense_linear"]}
    if kind == "swinv2" and method == "vpt_deep":  # no prompts in cosine windows
        with pytest.raises(ConfigError, match="vpt_deep"):
            managed(backbone, method, head, **options)
        return
    manager = managed(backbone, method, head, **options)

    def gradients(sizes: list[tuple[int, int]], checkpointing: bool) -> list[torch.Tensor]:
        manager.backbone.set_grad_checkpointing(checkpointing)
        manager.zero_grad()
        losses = [manager(inputs(size, False), "dense_linear").square().mean() for size in sizes]
        for loss in losses:
            loss.backward()
        return [p.grad.clone() for _, p in manager.trainable_parameters() if p.grad is not None]

    together = gradients([(32, 64), (64, 32)], checkpointing=True)
    apart = [gradients([size], checkpointing=False) for size in ((32, 64), (64, 32))]
    assert together and len(together) == len(apart[0])
    for both, one, other in zip(together, *apart, strict=True):
        torch.testing.assert_close(both, one + other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(50, 70), (33, 64)])
@pytest.mark.parametrize("head", HEADS)
def test_what_the_backbone_pads_is_cut_off(head: str, size: tuple[int, int]) -> None:
    """A model that pads gives what it gives for the image that was padded before, less the padding."""
    torch.manual_seed(0)
    backbone = VisionTransformer(**FLAT, dynamic_img_size=True, dynamic_img_pad=True, img_size=IMAGE_SIZE).eval()
    manager = managed(backbone, "convpass", {head: HEADS[head]})
    images = inputs(size, False)
    padded = nn.functional.pad(images, (0, -size[1] % 16, 0, -size[0] % 16))
    with torch.no_grad():
        out, whole = manager(images, head), manager(padded, head)
    assert out.shape[-2:] == size
    torch.testing.assert_close(out, whole[:, :, : size[0], : size[1]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 64), (50, 70)])
@pytest.mark.parametrize("pyramid", ["pvt_v2", "convnext"])
def test_a_pyramid_for_any_size(pyramid: str, size: tuple[int, int]) -> None:
    """PVTv2 and ConvNeXt know no size: made for one or for another they are the same, and outputs have the images'."""
    outputs = []
    options = {"sites": ("parallel_mlp_ln",)} if pyramid == "convnext" else {}
    for made_for in (IMAGE_SIZE, size):
        backbone: Any = tiny_backbone(pyramid)
        height, width = (made_for, made_for) if isinstance(made_for, int) else made_for
        backbone.default_cfg = {"input_size": (3, height, width)}
        manager = managed(backbone, "convpass", HEADS, **options)
        with torch.no_grad():
            outputs.append({head: manager(inputs(size, False), head) for head in HEADS})
    for head, out in outputs[0].items():
        assert out.shape[-2:] == size
        torch.testing.assert_close(out, outputs[1][head], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("anatomy", TINY)
def test_sizes_a_backbone_cannot_take_are_refused_in_one_line(anatomy: str) -> None:
    manager = mtpeft.attach(tiny_backbone(anatomy), "ssf" if anatomy == "convnext" else "lora")
    manager.add_task("birds", num_classes=2)
    if anatomy in ("pvt_v2", "pvt", "convnext"):
        assert manager(torch.zeros(1, 3, 50, 70), "birds").shape == (1, 2)
        return
    for size in ((32, 64), (50, 70)):
        with pytest.raises(DataError, match=f"images are {size[0]} x {size[1]}; the backbone takes 64 x 64: resize"):
            manager(torch.zeros(1, 3, *size), "birds")
    manager.backbone.patch_embed.strict_img_size = False  # not asked for: positions do not fit
    if anatomy.startswith("swin"):
        return
    with pytest.raises(DataError, match="images are 32 x 64") as error:
        manager(torch.zeros(1, 3, 32, 64), "birds")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_multiples_of_the_patch_are_asked_for(kind: str) -> None:
    manager = managed(pair(kind, SIZES[0])[0], "lora", {"linear": {"num_classes": 2}})
    with pytest.raises(DataError, match="images are 50 x 70; the backbone takes multiples of"):
        manager(torch.zeros(1, 3, 50, 70))


@pytest.mark.parametrize("template", ["padding", "fixed_patch", "random_patch"])
def test_pixel_prompts_fit_or_are_refused(template: str) -> None:
    backbone, _ = pair("vit", SIZES[0])
    manager = mtpeft.attach(backbone, "vp", prompt_size=20, template=template)
    manager.add_task("birds", num_classes=2)
    if template == "padding":
        with pytest.raises(DataError, match="images are 32 x 64, but the frame of `vp` is for 64 x 64: resize them"):
            manager(torch.zeros(1, 3, 32, 64))
        return
    assert manager(torch.zeros(1, 3, 32, 64)).shape == (1, 2)
    with pytest.raises(DataError, match="images are 16 x 64, but the patch of `vp` has a side of 20"):
        manager(torch.zeros(1, 3, 16, 64))
