"""EVP-L: prompts of high frequencies and patches before every block, on a plain transformer and on pyramids."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from counted import trained
from naive import NaiveViT, assert_close, attached, gelu, linear, norm, tokens
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.methods.prompt.evp_l import high_frequencies
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

X = images(2, torch.float64)


#: PVTv2-B4 has the widths and depths of the authors' MiT-B4
@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("vit_base_patch16_224", {}, 63_312),
        ("vit_base_patch16_224", {"reduction": 4}, 888_192),
        ("pvt_v2_b4", {}, 550_480),
    ],
)
def test_counts(model: str, options: dict[str, Any], expected: int) -> None:
    assert trained(model, "evp_l", **options) == expected


def frequencies(n: int, half: int) -> torch.Tensor:
    """Which of n frequencies are low: those from -half to half - 1, where half of n is zero frequency."""
    return torch.tensor([-half <= (k if k < n - n // 2 else k - n) < half for k in range(n)])


def naive_high_frequencies(x: torch.Tensor, ratio: float) -> torch.Tensor:
    """By the matrices of the Fourier transform, without its functions."""
    height, width = x.shape[-2:]
    half = math.floor(math.sqrt(height * width * ratio) / 2)

    def matrix(n: int) -> torch.Tensor:
        k = torch.arange(n, dtype=torch.float64)
        return torch.exp(-2j * math.pi * k[:, None] * k / n)

    spectrum = matrix(height) @ x.to(torch.complex128) @ matrix(width)
    spectrum[..., frequencies(height, half)[:, None] & frequencies(width, half)] = 0
    return (matrix(height).conj() @ spectrum @ matrix(width).conj() / (height * width)).real.abs()


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (7, 5), (4, 64)])
def test_high_frequencies_are_what_is_left_of_the_spectrum(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_close(high_frequencies(x, 0.25), naive_high_frequencies(x, 0.25))
    flat = torch.ones(1, 3, *size)
    assert high_frequencies(flat, 0.25).abs().max() < 1e-6
    assert high_frequencies(x.half(), 0.25).dtype == torch.float16


def conv(layer: Any, x: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """A convolution by cutting patches out, (B, C, H, W) -> (B, h, w, C')."""
    size = layer.weight.shape[-1]
    padded = nn.functional.pad(x, (padding,) * 4)
    patches = padded.unfold(2, size, stride).unfold(3, size, stride)
    return torch.einsum("bchwij,ocij->bhwo", patches, layer.weight) + layer.bias


def prompt(site: Any, up: Any, features: torch.Tensor) -> torch.Tensor:
    return linear(up, gelu(linear(site.mlp, features)))


@torch.no_grad()
@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
def test_on_a_plain_transformer_one_generator_reads_the_patch_embedding(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "evp_l", reduction=8, mask_ratio=0.3)
    bank: Any = manager.attachments[0].weights.bank("birds")
    stem, up, start = sites["patch_embed", None], bank.model.stages["0"], model.num_prefix_tokens
    projected = conv(model.patch_embed.proj, X, 16, 0).flatten(1, 2)
    embedded = conv(stem.embed.proj, naive_high_frequencies(X, 0.3), 16, 0).flatten(1, 2)
    features = linear(stem.tune, projected) + embedded
    assert features.shape == (2, 16, 6)

    def prompted(x: torch.Tensor, i: int) -> torch.Tensor:
        return torch.cat([x[:, :start], x[:, start:] + prompt(sites["entry", i], up, features)], dim=1)

    assert_close(tokens(manager, X), NaiveViT(model, tokens=prompted)(X))


@torch.no_grad()
@pytest.mark.parametrize(("anatomy", "depth"), [("swin", 4), ("pvt_v2", 2)])
def test_on_a_pyramid_every_stage_has_a_generator_that_reads_what_enters_it(anatomy: str, depth: int) -> None:
    model, manager, sites = attached(anatomy, "evp_l")
    bank: Any = manager.attachments[0].weights.bank("birds")
    maps, widths = naive_high_frequencies(X, 0.25), []
    state: dict[str, torch.Tensor] = {}

    def enter(index: int) -> Any:
        site = sites["entry", index]
        stage = 2 * index // depth

        def hook(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0]
            if 2 * index % depth == 0:  # a stage begins
                stride = 2 if stage else 4
                grid = norm(site.embed.norm, conv(site.embed.proj, state.get("maps", maps), stride, stride - 1))
                state["maps"] = grid.permute(0, 3, 1, 2)
                state["features"] = linear(site.tune, x) + grid.reshape(*x.shape[:-1], -1)
                widths.append(grid.shape[-1])
            return (x + prompt(site, bank.model.stages[str(stage)], state["features"]), *args[1:])

        return hook

    for index, path in enumerate(manager.anatomy.blocks):
        model.get_submodule(path).register_forward_pre_hook(enter(index))
    assert_close(tokens(manager, X), model.forward_features(X))
    assert widths == [6, 12]


def test_starts_as_the_authors_do() -> None:
    manager = mtpeft.attach(timm.create_model("pvt_v2_b0", num_classes=0), "evp_l", reduction=2)
    manager.add_task("birds", num_classes=2)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for name, parameter in bank.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter) if "norm.weight" in name else 0 * parameter), name
        else:
            fan_out = parameter.shape[0] * parameter[0, 0].numel()
            expected = math.sqrt(2 / fan_out) if parameter.ndim == 4 else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.2), name


@pytest.mark.parametrize(
    ("anatomy", "options", "why"),
    [
        ("vit", {"reduction": 49}, "reduction=49 leaves nothing of a width of 48"),
        ("vit", {"sites": ("entry",)}, "it reads the patch embedding and changes what enters blocks"),
        ("swin", {"blocks": (1, 2)}, "the first block of stage 0 is left out"),
        ("swin", {"blocks": (0, 3)}, "the first block of stage 1 is left out"),
    ],
)
def test_what_does_not_fit_is_refused(anatomy: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        mtpeft.attach(tiny_backbone(anatomy), "evp_l", **options)
