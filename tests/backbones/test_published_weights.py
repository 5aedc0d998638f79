"""PVT and T2T-ViT: the names, shapes and numbers of the published weights, and checkpoints of them."""

from __future__ import annotations

import math
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import mtpeft
from mtpeft.backbones.published import unwrapped
from mtpeft.errors import ConfigError

Shapes = dict[str, tuple[int, ...]]
#: millions of weights, as published; those of T2T-ViT with its fixed positions and random features
PUBLISHED = {
    "pvt_tiny": 13.2,
    "pvt_small": 24.5,
    "pvt_medium": 44.2,
    "pvt_large": 61.4,
    "t2t_vit_7": 4.3,
    "t2t_vit_10": 5.9,
    "t2t_vit_12": 6.9,
    "t2t_vit_14": 21.5,
    "t2t_vit_19": 39.2,
    "t2t_vit_24": 64.1,
    "t2t_vit_t_14": 21.5,
    "t2t_vit_t_19": 39.2,
    "t2t_vit_t_24": 64.1,
}
PVT_DEPTHS = {"tiny": (2, 2, 2, 2), "small": (3, 4, 6, 3), "medium": (3, 4, 18, 3), "large": (3, 8, 27, 3)}
T2T_SIZES = {7: (256, 2), 10: (256, 2), 12: (256, 2), 14: (384, 3), 19: (448, 3), 24: (512, 3)}  # width, MLP ratio


def linear(name: str, given: int, made: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (made, given)} | ({f"{name}.bias": (made,)} if bias else {})


def norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def published_pvt(depths: tuple[int, ...], classes: int = 1000, size: int = 224) -> Shapes:
    """Names and shapes of a PVT's published weights."""
    found: Shapes = {}
    given, side = 3, size
    for s, (depth, dim) in enumerate(zip(depths, (64, 128, 320, 512), strict=True), 1):
        patch, reduced, ratio = (4 if s == 1 else 2), (8, 4, 2, 1)[s - 1], (8, 8, 4, 4)[s - 1]
        side //= patch
        found |= {f"patch_embed{s}.proj.weight": (dim, given, patch, patch), f"patch_embed{s}.proj.bias": (dim,)}
        found |= norm(f"patch_embed{s}.norm", dim) | {f"pos_embed{s}": (1, side * side + (s == 4), dim)}
        for b in (f"block{s}.{i}" for i in range(depth)):
            found |= norm(f"{b}.norm1", dim) | norm(f"{b}.norm2", dim)
            found |= linear(f"{b}.attn.q", dim, dim) | linear(f"{b}.attn.kv", dim, 2 * dim)
            found |= linear(f"{b}.attn.proj", dim, dim)
            found |= linear(f"{b}.mlp.fc1", dim, ratio * dim) | linear(f"{b}.mlp.fc2", ratio * dim, dim)
            if s < 4:
                found |= {f"{b}.attn.sr.weight": (dim, dim, reduced, reduced), f"{b}.attn.sr.bias": (dim,)}
                found |= norm(f"{b}.attn.norm", dim)
        given = dim
    return found | {"cls_token": (1, 1, 512)} | norm("norm", 512) | linear("head", 512, classes)


def published_t2t(depth: int, kind: str, classes: int = 1000, size: int = 224) -> Shapes:
    """Names and shapes of a T2T-ViT's published weights."""
    width, ratio = T2T_SIZES[depth]
    found: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, (size // 16) ** 2 + 1, width)}
    for step, given in (("attention1", 147), ("attention2", 576)):
        a = f"tokens_to_token.{step}"
        found |= norm(f"{a}.norm1", given) | norm(f"{a}.norm2", 64)
        if kind == "performer":
            found |= {f"{a}.w": (32, 64)} | linear(f"{a}.kqv", given, 192) | linear(f"{a}.proj", 64, 64)
            found |= linear(f"{a}.mlp.0", 64, 64) | linear(f"{a}.mlp.2", 64, 64)
        else:
            found |= linear(f"{a}.attn.qkv", given, 192, bias=False) | linear(f"{a}.attn.proj", 64, 64)
            found |= linear(f"{a}.mlp.fc1", 64, 64) | linear(f"{a}.mlp.fc2", 64, 64)
    found |= linear("tokens_to_token.project", 576, width)
    for b in (f"blocks.{i}" for i in range(depth)):
        found |= norm(f"{b}.norm1", width) | norm(f"{b}.norm2", width)
        found |= linear(f"{b}.attn.qkv", width, 3 * width, bias=False) | linear(f"{b}.attn.proj", width, width)
        found |= linear(f"{b}.mlp.fc1", width, ratio * width) | linear(f"{b}.mlp.fc2", ratio * width, width)
    return found | norm("norm", width) | linear("head", width, classes)


def published(name: str, **more: int) -> Shapes:
    if name.startswith("pvt"):
        return published_pvt(PVT_DEPTHS[name.removeprefix("pvt_")], **more)
    return published_t2t(int(name.rpartition("_")[2]), "transformer" if "_t_" in name else "performer", **more)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_have_the_published_names_shapes_and_number(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes == published(name)
    assert round(sum(map(math.prod, shapes.values())) / 1e6, 1) == PUBLISHED[name]
    fixed = {key for key in shapes if name.startswith("t2t") and (key == "pos_embed" or key.endswith(".w"))}
    assert {key for key, _ in model.named_parameters()} == shapes.keys() - fixed


def test_all_are_timm_models_with_weights_to_be_had() -> None:
    assert timm.list_models("t2t_vit_*") == sorted(
        (n for n in PUBLISHED if n[0] == "t"), key=timm.models._registry._natural_key
    )
    assert {n.partition(".")[0] for n in timm.list_models(["pvt_[tsml]*", "t2t*"], pretrained=True)} == PUBLISHED.keys()
    assert timm.get_pretrained_cfg("t2t_vit_19").url.endswith("/81.9_T2T_ViT_19.pth.tar")
    assert timm.get_pretrained_cfg("pvt_small").url.endswith("/pvt_small.pth")


@pytest.mark.parametrize("holder", [None, "state_dict_ema", "state_dict", "model"])
@pytest.mark.parametrize("name", ["pvt_tiny", "t2t_vit_7"])
def test_published_checkpoints_load_whole_whatever_they_are_kept_under(
    name: str, holder: str | None, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(shape, generator=generator) for key, shape in published(name).items()}
    last = {key: torch.zeros_like(value) for key, value in state.items()}
    kept: Any = {f"module.{key}": value for key, value in state.items()}
    others = {"state_dict": last} if holder == "state_dict_ema" else {}
    torch.save({**others, holder: kept} if holder else state, tmp_path / "published.pth")
    assert unwrapped({**others, holder: kept} if holder else state).keys() == state.keys()
    overlay = {"file": str(tmp_path / "published.pth")}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", ["pvt_tiny", "t2t_vit_7"])
def test_positions_of_a_checkpoint_are_resampled_for_another_size(name: str, tmp_path: Path) -> None:
    state = {key: torch.zeros(shape) for key, shape in published(name).items()}
    positions = "pos_embed4" if name == "pvt_tiny" else "pos_embed"
    state[positions][:, 0], state[positions][:, 1:] = 3.0, 2.0
    torch.save(state, tmp_path / "published.pth")
    overlay = {"file": str(tmp_path / "published.pth")}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=(64, 128))
    found = model.state_dict()[positions]
    assert found.shape[1] == 1 + (2 * 4 if name == "pvt_tiny" else 4 * 8)
    assert (found[:, 0] == 3).all() and torch.allclose(found[:, 1:], torch.tensor(2.0))


@pytest.mark.parametrize("name", ["pvt_tiny", "t2t_vit_14"])
def test_without_a_network_the_error_names_the_model(name: str, monkeypatch: Any, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(ConfigError, match=f"pre-trained weights of '{name}' cannot be had .*no network.*; give a timm"):
        mtpeft.create_backbone(name)
    assert mtpeft.create_backbone(name, pretrained=False).num_classes == 0
