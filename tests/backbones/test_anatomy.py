"""The anatomy: blocks, sites and token layouts of timm models, and errors for what is not there."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.testing import TINY, tiny_backbone
from mtpeft.testing.case import images

LAYOUTS = {"swin": "NHWC", "swinv2": "NHWC", "pvt_v2": "NCHW", "convnext": "NCHW"}
BLOCKS = {"swin": 4, "swinv2": 4, "pvt": 5, "convnext": 4, "hiera": 3}
PREFIX = {"vit": 1, "deit_distilled": 2, "dinov2": 5, "clip": 1, "mae": 1, "eva": 1, "eva02": 1, "beit": 1}
PREFIX |= {"pvt": 1, "t2t_vit": 1}


@pytest.mark.parametrize("name", TINY)
def test_structure(name: str) -> None:
    backbone: Any = tiny_backbone(name)
    anatomy = Anatomy(backbone)
    assert anatomy.layout == LAYOUTS.get(name, "NLC")
    assert anatomy.prefix_tokens == PREFIX.get(name, 0)
    assert anatomy.image_size == (64, 64) and anatomy.input_size == (3, 64, 64)
    assert len(anatomy.blocks) == BLOCKS.get(name, 2)
    assert anatomy.feature_dim == 48
    keys = [site.key for site in anatomy.sites]
    assert len(keys) == len(set(keys)), "two sites share a name"
    for key in keys:
        assert "." not in key, "a key has to be a name of a module"
    with torch.no_grad():
        features = backbone.forward_features(images(2))
        fmap = anatomy.feature_map(features)
        pooled = backbone.forward_head(features, pre_logits=True)
    assert fmap.shape == (2, 48, *anatomy.grid)
    assert pooled.shape == (2, anatomy.feature_dim)


@pytest.mark.parametrize("name", TINY)
def test_sites_have_the_sizes_that_are_seen_when_the_model_runs(name: str) -> None:
    backbone: Any = tiny_backbone(name)
    anatomy = Anatomy(backbone)
    seen: dict[nn.Module, tuple[torch.Size, torch.Size]] = {}

    def see(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen[module] = args[0].shape, output.shape

    for module in {s.module for s in anatomy.sites if s.style == "output"}:
        module.register_forward_hook(see)
    with torch.no_grad():
        backbone.forward_features(images(2))
    for site in anatomy.sites:
        if site.style == "output" and site.module in seen:
            given, made = seen[site.module]
            axis = 1 if site.channels_first else site.channel_axis
            assert given[axis] == site.dim, site.key
            assert made[axis] == (site.dim_out if site.rows is None else made[axis]), site.key
    for site in anatomy.sites:
        for parameter in (site.weight, site.bias):
            if parameter is not None:
                backbone.get_parameter(parameter)


@pytest.mark.parametrize("name", TINY)
def test_groups_cover_every_norm_and_every_bias_once(name: str) -> None:
    backbone = tiny_backbone(name)
    anatomy = Anatomy(backbone)
    norms = [m for m in backbone.modules() if "Norm" in type(m).__name__ and getattr(m, "weight", None) is not None]
    assert sorted(s.path for s in anatomy.select(["norms"])) == sorted(
        path for path, m in backbone.named_modules() if m in norms and m in anatomy.calls
    )
    names = {n for n, _ in backbone.named_parameters() if n.endswith((".bias", "q_bias", "v_bias", "k_bias"))}
    names -= {n for n in names if "cpb_mlp" in n}  # SwinV2's bias table is a small network
    covered = [(s.bias, s.rows) for s in anatomy.select(["biases"])]
    assert {bias for bias, _ in covered} == names
    assert len(covered) == len(set(covered))


def test_pre_norm_and_post_norm_blocks() -> None:
    """SwinV2 norms after its branches, so the input of the norm is the branch's output, not its input."""
    vit: Any = tiny_backbone("vit")
    first = {s.kind: s for s in Anatomy(vit).sites if s.block == 0}
    assert first["parallel_mlp"].source is first["parallel_mlp_ln"].source is vit.blocks[0].norm2
    assert first["parallel_mlp_ln"].source_is_output and not first["parallel_mlp"].source_is_output
    backbone: Any = tiny_backbone("swinv2")
    post = {s.kind: s for s in Anatomy(backbone).sites if s.block == 0}
    block = backbone.get_submodule(Anatomy(backbone).blocks[0])
    assert post["parallel_mlp"].source is block.mlp and post["parallel_mlp_ln"].source is block.mlp
    assert post["parallel_attn"].source is block
    assert not post["parallel_mlp_ln"].source_is_output


def test_attaching_probes_without_a_trace() -> None:
    backbone = tiny_backbone("swin").train()
    backbone.layers[0].eval()  # type: ignore[index, union-attr]
    modes = [m.training for m in backbone.modules()]
    state = torch.get_rng_state()
    Anatomy(backbone)
    assert [m.training for m in backbone.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())


COUNTS = [
    ("swin_tiny_patch4_window7_224", "ln_tune", 24_768),
    ("swin_tiny_patch4_window7_224", "bitfit", 52_224),
    ("pvt_v2_b0", "ln_tune", None),
    ("pvt_v2_b0", "bitfit", None),
]


@pytest.mark.parametrize(("model", "method", "expected"), COUNTS)
def test_counts_on_pyramids(model: str, method: str, expected: int | None) -> None:
    backbone = timm.create_model(model, num_classes=0)
    if expected is None:  # no published number: count by type
        norms = [m for m in backbone.modules() if isinstance(m, nn.LayerNorm)]
        biases = [p for n, p in backbone.named_parameters() if n.endswith(".bias")]
        expected = (
            sum(p.numel() for m in norms for p in m.parameters())
            if method == "ln_tune"
            else sum(p.numel() for p in biases)
        )
    manager = mtpeft.attach(backbone, method)
    manager.add_task("birds", num_classes=3)
    assert manager.num_trainable("birds", heads=False) == expected
    assert manager.counts("birds").norm_bias == expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet18", "ResNet is not supported: it has no patch_embed.proj convolution"),
        ("mixer_s32_224", "MlpMixer is not supported: it has no patch_embed.proj convolution"),
        ("convit_tiny", r"ConVit is not supported: no transformer blocks found \(modules with norm1, attn, norm2"),
        (
            "mvitv2_tiny",
            r"MultiScaleVit is not supported: its blocks \(stages.0.blocks.0, ...\) do not map one tensor to one",
        ),
        (
            "volo_d1_224",
            r"VOLO is not supported: the attention of network.0.0 \(OutlookAttention\) has no known projections",
        ),
        ("davit_tiny", "DaVit is not supported: "),
    ],
)
def test_unsupported_models(model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mtpeft.attach(timm.create_model(model, num_classes=0), "lora")


def test_a_module_that_is_no_timm_model() -> None:
    with pytest.raises(ConfigError, match="Linear is not supported: it has no forward_features and forward_head"):
        mtpeft.attach(nn.Linear(2, 2), "lora")


def test_unknown_names_are_answered_with_near_ones() -> None:
    anatomy = Anatomy(tiny_backbone("vit"))
    with pytest.raises(
        UnknownNameError, match=r"unknown site 'fc3' \(VisionTransformer has no such site\)\. Did you mean .*'fc1'"
    ):
        anatomy.select(["fc3"])
    with pytest.raises(ConfigError, match=r"blocks \[2, 7\] are out of range: the backbone has 2 blocks"):
        anatomy.select(["q"], blocks=[0, 2, 7])
    with pytest.raises(ConfigError, match=r"blocks \[-1\] are out of range"):
        anatomy.select(["q"], blocks=[-3])
    with pytest.raises(ConfigError, match=r"exclude='blocks.9' excludes none of the sites \['q'\]"):
        anatomy.select(["q"], exclude=["blocks.9"])


def test_a_string_where_a_list_belongs() -> None:
    with pytest.raises(ConfigError, match=r"method 'lora': sites is 'q', expected a list of one or more names"):
        mtpeft.attach(tiny_backbone("vit"), "lora", sites="q")


def test_maps_of_other_sizes() -> None:
    """A grid is the running forward's, else the model's own; a number of tokens alone tells none."""
    anatomy = Anatomy(tiny_backbone("vit"))
    site = anatomy.sites[0]
    assert site.grid_of(16) == (4, 4)
    anatomy.running.grid = (2, 8)
    assert site.grid_of(16) == (2, 8)
    anatomy.running.grid = None
    with pytest.raises(ConfigError, match="36 patch tokens do not form the grid 4 x 4"):
        site.grid_of(36)


def test_a_convolution_between_stages_is_no_projection_of_attention() -> None:
    """PVT's patch embeddings hold a `proj` of their own; LoRA's must not reach it."""
    anatomy = Anatomy(tiny_backbone("pvt_v2"))
    assert [s.path for s in anatomy.select(["proj"])] == ["stages.0.blocks.0.attn.proj", "stages.1.blocks.0.attn.proj"]
    assert [s.path for s in anatomy.select(["downsample_proj"])] == ["stages.1.downsample.proj"]
    assert "stages.1.downsample.proj" in {s.path for s in anatomy.select(["operations"])}
