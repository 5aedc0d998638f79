"""Side networks: their published counts, what they refuse, and mixed batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from naive import T, assert_close
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.hooks.attachment import Attachment
from mtpeft.manager.attach import create_backbone
from mtpeft.methods import METHODS
from mtpeft.sharing.folding import Folding
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, mixed_path

VIT, SWIN_B, SWIN_L = "vit_base_patch16_224", "swin_base_patch4_window7_224", "swin_large_patch4_window7_224"


# counts -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def anatomies() -> Callable[[str], Anatomy]:
    """Models whose weights have shapes and no values."""
    made: dict[str, Anatomy] = {}

    def get(name: str) -> Anatomy:
        if name not in made:
            with torch.device("meta"):
                made[name] = Anatomy(create_backbone(name, pretrained=False))
        return made[name]

    return get


SWIN_DTL = {"rank": 4, "blocks": tuple(range(4, 24)), "feedback_from": 14}
LIGHT = {"interactions": 1, "ffn_ratio": 0.0, "extra_extractors": 0}
COUNTS: list[tuple[str, str, dict[str, Any], int]] = [
    (VIT, "dtl", {}, 36_864),
    (VIT, "dtl_plus", {}, 43_776),
    (VIT, "dtl_plus", {"kernel_size": 4}, 49_152),
    (VIT, "dtl_plus", {"kernel_size": 5}, 56_064),
    (SWIN_B, "dtl", SWIN_DTL, 90_112),
    (SWIN_B, "dtl_plus", {**SWIN_DTL, "kernel_size": 5}, 90_112 + 25 * (512 + 1_024)),
    (VIT, "side_tuning", {"side": "alexnet"}, 9_547_585),
    (VIT, "side_tuning", {"side": "fcn5"}, 921_376 + 8 * 768 + 1),
    (VIT, "side_tuning", {"side": "fcn4"}, 25_904 + 64 * 768 + 1),
    (VIT, "sam_lst", {}, 2_782_785 + 197_376),
    ("samvit_base_patch16", "sam_lst", {}, 2_782_785),
    (SWIN_B, "e3va", {}, 1_195_008),
    (SWIN_L, "e3va", {}, 1_792_512),
    (VIT, "e3va", {}, 912_384 + 1_536),
    (VIT, "e3va", {"rank": 8}, 470_016 + 1_536),
    (VIT, "vit_adapter", {}, 13_680_608),
    (VIT, "vit_adapter", LIGHT, 5_579_648),
    ("vit_tiny_patch16_224", "vit_adapter", {"num_heads": 6, "deform_ratio": 1.0}, 2_438_192),
    ("vit_small_patch16_224", "vit_adapter", {"num_heads": 6, "deform_ratio": 1.0, "norm": "group"}, 5_830_160),
    ("vit_large_patch16_224", "vit_adapter", {"num_heads": 16}, 23_236_800),
]


@pytest.mark.parametrize(("model", "method", "options", "expected"), COUNTS)
def test_trained_weights(
    anatomies: Callable[[str], Anatomy], model: str, method: str, options: dict[str, Any], expected: int
) -> None:
    spec, anatomy = METHODS.get(method), anatomies(model)
    with torch.device("meta"):
        attachment = Attachment(spec, spec.build_config(options), anatomy, "per_task")
        attachment.weights.add_task("birds")
    found = {p for module in attachment.weights.modules_of("birds") for p in module.parameters()}
    assert sum(p.numel() for p in found) == expected


# mixed batches ------------------------------------------------------------------------------------------------------


class Attentions(TorchDispatchMode):
    """Counts kernels of fused attention."""

    seen = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation."""
        self.seen += "scaled_dot_product" in str(function)
        return function(*args, **(kwargs or {}))


def test_attention_of_all_samples_of_a_mixed_batch_is_one_kernel() -> None:
    """One for each block of the backbone and one for each of the side network, whatever the number of samples."""
    manager = mtpeft.attach(tiny_backbone("vit"), "lst", reduction=4)
    for task in ("birds", "cars", "dogs"):
        manager.add_task(task, num_classes=3)
    with mixed_path(math.inf), Attentions() as counter:
        manager(images(6), ["birds", "cars", "dogs"] * 2)
    assert counter.seen == 2 + 2


@pytest.mark.parametrize("batched", [(True, True, True), (True, False, False), (False, False, False)])
def test_attention_under_vmap_is_attention(batched: tuple[bool, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [((4,) if own else ()) + (2, 3, 5, 8) for own in batched]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    factor = torch.arange(1.0, 5.0, dtype=torch.float64)

    def one(factor: T, *qkv: T) -> T:
        with Folding():
            return factor * nn.functional.scaled_dot_product_attention(*qkv, scale=0.3)

    found = torch.func.vmap(one, in_dims=(0, *(0 if own else None for own in batched)))(factor, *inputs)
    q, k, v = (x if own else x.expand(4, *x.shape) for x, own in zip(inputs, batched, strict=True))
    weights = (0.3 * q @ k.transpose(-2, -1)).softmax(dim=-1)
    expected = factor.view(4, 1, 1, 1, 1) * (weights @ v)
    assert_close(found, expected)
    loss = torch.rand(found.shape, generator=generator, dtype=torch.float64)
    grads = zip(
        torch.autograd.grad((found * loss).sum(), inputs),
        torch.autograd.grad((expected * loss).sum(), inputs),
        strict=True,
    )
    for own, reference in grads:
        assert_close(own, reference)


# refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "anatomy", "options", "said"),
    [
        ("dtl", "vit", {"feedback_from": 2}, "feedback_from=2 is no block: the backbone has 2"),
        ("dtl", "vit", {"blocks": (0,), "feedback_from": 1}, "nothing is added to any block"),
        ("dtl", "vit", {"sites": ("after_mlp",)}, "it acts at the site block alone, not at after_mlp"),
        ("side_tuning", "vit", {"sites": ("pixels",)}, "it reads pixels and changes features"),
        ("side_tuning", "vit", {"init": "imagenet"}, "init='imagenet' is for side='alexnet'"),
        ("sam_lst", "vit", {"exclude": ("pixels",)}, "it reads pixels and changes features"),
        ("e3va", "vit", {"blocks": (0,)}, "its highway follows the whole stream; left out: after_attention of block 1"),
        ("e3va", "pvt_v2", {}, "it needs a norm after the last block"),
        ("vit_adapter", "swin", {}, "a plain transformer's one scale"),
        ("vit_adapter", "vit", {"num_heads": 5}, "num_heads=5 do not divide values of width deform_ratio=0.5 x 48"),
        ("vit_adapter", "vit", {"blocks": (0,)}, "cannot leave any out"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(method: str, anatomy: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        mtpeft.attach(tiny_backbone(anatomy), method, **options)
    assert "\n" not in str(error.value) and f"'{method}' cannot be attached" in str(error.value)


def test_networks_of_three_channels_refuse_others() -> None:
    backbone = VisionTransformer(img_size=64, in_chans=1, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    for method, options in (("sam_lst", {}), ("side_tuning", {"side": "alexnet"})):
        with pytest.raises(ConfigError, match="images of 3 channels, and the backbone's have 1"):
            mtpeft.attach(backbone, method, **options)
    mtpeft.attach(backbone, "side_tuning").detach()
