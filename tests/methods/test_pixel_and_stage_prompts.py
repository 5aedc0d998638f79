"""EVP's frame around a shrunk image, and Pro-Tuning's prompts in front of every stage."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from counted import trained
from naive import NaiveViT, assert_close, attached, tokens
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError, DataError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

X = images(2, torch.float64)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("evp", {}, 3 * (224**2 - 164**2)),
        ("evp", {"prompt_size": 1}, 3 * (224**2 - 222**2)),
        ("pro_tuning", {}, 3_926_212),
        ("pro_tuning", {"blocks": (0,)}, 981_553),
    ],
)
def test_counts_on_vit_b(method: str, options: dict[str, Any], expected: int) -> None:
    assert trained("vit_base_patch16_224", method, **options) == expected


def shrink(image: torch.Tensor, size: int) -> torch.Tensor:
    """Bicubic with a = -0.5 and a kernel widened by the scale, row by row and column by column."""

    def weights(length: int) -> torch.Tensor:
        scale, rows = length / size, []
        for i in range(size):
            centre = scale * (i + 0.5)
            low, high = max(0, int(centre - 2 * scale + 0.5)), min(length, int(centre + 2 * scale + 0.5))
            row = torch.zeros(length, dtype=torch.float64)
            for j in range(low, high):
                t = abs(j - centre + 0.5) / scale
                row[j] = (1.5 * t - 2.5) * t * t + 1 if t < 1 else ((2.5 - 0.5 * t) * t - 4) * t + 2 if t < 2 else 0.0
            rows.append(row / row.sum())
        return torch.stack(rows)

    return weights(image.shape[-2]) @ image @ weights(image.shape[-1]).T


@torch.no_grad()
def test_evp_normalises_the_padded_image_and_the_prompt_together() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    model, manager, sites = attached("vit", "evp", prompt_size=10, mean=mean, std=std)
    site = sites["pixels", None]
    m, s = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (mean, std))
    image = X * s + m  # as it was before it was normalised
    padded = torch.zeros_like(image)
    padded[..., 10:54, 10:54] = shrink(image, 44)
    delta = torch.zeros(3, 64, 64, dtype=torch.float64)
    delta[:, :10], delta[:, 54:] = site.up, site.down
    delta[:, 10:54, :10], delta[:, 10:54, 54:] = site.left, site.right
    assert_close(tokens(manager, X), NaiveViT(model)((padded + delta - m) / s))


def test_evp_starts_black_in_the_model_s_own_normalisation() -> None:
    backbone: Any = tiny_backbone("vit")
    backbone.pretrained_cfg = {"mean": (0.5, 0.25, 0.1), "std": (0.5, 0.5, 0.2)}
    manager = mtpeft.attach(backbone, "evp", prompt_size=5)
    manager.add_task("birds", num_classes=2)
    bank: Any = manager.attachments[0].weights.bank("birds")
    (site,) = bank.sites.values()
    changed = site(images(2), images(2))
    assert all(not p.any() for p in site.parameters())
    assert torch.allclose(changed[0, :, 0, 0], torch.tensor([-1.0, -0.5, -0.5]))
    with pytest.raises(DataError, match="images are 32 x 64, but the frame of `evp` is for 64 x 64"):
        site(images(2)[..., :32, :], images(2)[..., :32, :])


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("evp", {"prompt_size": 32}, "prompt_size=32 does not fit images of 64 x 64; give 1 to 31"),
        ("evp", {"mean": (0.5,)}, "mean has 1 values, and images have 3 channels"),
        ("pro_tuning", {"groups": 5}, "groups=5 does not divide a width of 48"),
        ("pro_tuning", {"sites": ("after_mlp",)}, "it acts on what enters a block"),
    ],
)
def test_what_does_not_fit_is_refused(method: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        mtpeft.attach(tiny_backbone("vit"), method, **options)


def grouped(conv: Any, x: torch.Tensor, groups: int) -> torch.Tensor:
    """A 1 x 1 convolution of (B, C, H, W) in groups, one after the other."""
    parts = zip(x.chunk(groups, 1), conv.weight.flatten(1).chunk(groups), strict=True)
    return torch.cat([torch.einsum("bchw,oc->bohw", p, w) for p, w in parts], 1) + conv.bias.view(-1, 1, 1)


def depthwise(conv: Any, x: torch.Tensor) -> torch.Tensor:
    size, (height, width) = conv.weight.shape[-1], x.shape[-2:]
    padded, out = nn.functional.pad(x, (size // 2,) * 4), conv.bias.view(-1, 1, 1)
    for i in range(size):
        for j in range(size):
            out = out + conv.weight[:, :, i, j].unsqueeze(-1) * padded[..., i : i + height, j : j + width]
    return out


@torch.no_grad()
@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
def test_pro_tuning_adds_a_gated_prompt_to_the_patches(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "pro_tuning", kernel_size=3)
    start = model.num_prefix_tokens

    def prompted(x: torch.Tensor, i: int) -> torch.Tensor:
        site = sites["entry", i]
        maps = x[:, start:].transpose(1, 2).reshape(len(x), 48, 4, 4)
        t = grouped(site.convs[2], depthwise(site.convs[1], grouped(site.convs[0], maps, 4)), 1)
        hidden = grouped(site.gate[0], t.mean((2, 3), keepdim=True), 1).clamp(min=0)
        t = t / (1 + (-grouped(site.gate[2], hidden, 1)).exp())
        v = site.beta * grouped(site.out, t, 4)
        return torch.cat([x[:, :start], x[:, start:] + v.flatten(2).transpose(1, 2)], dim=1)

    assert_close(tokens(manager, X), NaiveViT(model, tokens=prompted)(X))


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        ("vit_base_patch16_224", [0, 3, 6, 9]),
        ("swin_tiny_patch4_window7_224", [0, 2, 4, 10]),
        ("pvt_v2_b2", [0, 3, 7, 13]),
    ],
)
def test_pro_tuning_stands_where_a_stage_begins(model: str, blocks: list[int]) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(model, num_classes=0)
        anatomy = mtpeft.backbones.anatomy.Anatomy(backbone)
    spec = mtpeft.METHODS.get("pro_tuning")
    sites = mtpeft.hooks.attachment.select_sites(spec, spec.build_config({}), anatomy)
    assert [site.block for site in sites] == blocks
