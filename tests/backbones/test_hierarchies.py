"""ConvNeXt and Hiera: what methods do there equals the model's own computation with the method written out, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.hooks.runtime import Selection
from mtpeft.manager.features import extract
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb

X = images(2, torch.float64)


def pair(anatomy: str, method: str, **options: Any) -> tuple[Any, Any, dict[tuple[str, int | None], Any]]:
    """A plain model, and an equal one under a method with all weights moved; its site modules by kind and block."""
    plain, manager = tiny_backbone(anatomy).double(), None
    manager = mtpeft.attach(tiny_backbone(anatomy).double(), method, **options)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    manager.eval()
    bank: Any = manager.attachments[0].weights.bank("birds")  # type: ignore[union-attr, operator]
    return plain, manager, {(s.kind, s.block): bank.sites[s.key] for s in manager.methods[0].selected}


def equal(manager: Any, expected: torch.Tensor, plain: Any) -> None:
    """Pooled features under the method are the expected ones, and not the plain model's."""
    with torch.no_grad():
        torch.testing.assert_close(manager.features(X, "birds"), expected, atol=1e-10, rtol=1e-8)
        before = plain.forward_head(plain.forward_features(X), pre_logits=True)
    assert not torch.allclose(before, expected, atol=1e-4)


def layer_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """Over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def convnext(plain: Any, after: Any = lambda kind, block, y: y, beside: Any = lambda block, x, n: 0.0) -> torch.Tensor:
    """Pooled features of the tiny ConvNeXt, maps (B, H, W, C). `after(kind, block, y)` comes behind every layer;
    `beside(block, x, n)` is added to a block's branch, x what enters the block and n what its MLP sees."""

    def convolved(x: torch.Tensor, conv: Any) -> torch.Tensor:
        return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    x = after("patch_embed", None, convolved(X.permute(0, 2, 3, 1), plain.stem[0]))
    x = after("stem_1", None, layer_norm(x, plain.stem[1]))
    for index, stage in enumerate(plain.stages):
        if index:
            x = after("downsample_0", index, layer_norm(x, stage.downsample[0]))
            x = after("downsample_1", index, convolved(x, stage.downsample[1]))
        (block,) = stage.blocks
        n = after("norm2", index, layer_norm(after("conv_dw", index, convolved(x, block.conv_dw)), block.norm))
        hidden = F.gelu(after("fc1", index, F.linear(n, block.mlp.fc1.weight, block.mlp.fc1.bias)))
        y = after("fc2", index, F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias))
        x = x + block.gamma * y + beside(index, x, n)
    return after("final_norm", None, layer_norm(x.mean((1, 2)), plain.head.norm))


@torch.no_grad()
def test_scales_and_shifts_behind_every_layer_of_convnext() -> None:
    plain, manager, _ = pair("convnext", "ssf")
    bank: Any = manager.methods[0].weights.bank("birds").sites
    of = {(s.kind, s.path): bank[s.key] for s in manager.methods[0].selected}
    assert len(of) == 2 + 3 * 2 + 4 * 4 + 1

    def after(kind: str, index: int | None, y: torch.Tensor) -> torch.Tensor:
        place = "" if index is None else f"stages.{index}."
        (found,) = (module for (k, path), module in of.items() if k == kind and path.startswith(place))
        return y * found.scale + found.shift

    equal(manager, convnext(plain, after=after), plain)


@torch.no_grad()
def test_adapters_beside_the_branches_of_convnext() -> None:
    """`parallel_mlp` sees what enters the block, `parallel_mlp_ln` what the MLP sees."""
    for kind in ("parallel_mlp", "parallel_mlp_ln"):
        plain, manager, sites = pair("convnext", "adaptformer", sites=(kind,), bottleneck_dim=4)

        def beside(block: int, x: torch.Tensor, n: torch.Tensor, kind: str = kind, sites: Any = sites) -> torch.Tensor:
            adapter = sites[kind, block].adapter
            z = F.relu(F.linear(n if kind.endswith("ln") else x, adapter.down.weight, adapter.down.bias))
            return 0.1 * F.linear(z, adapter.up.weight, adapter.up.bias)

        equal(manager, convnext(plain, beside=beside), plain)


@torch.no_grad()
def test_convolutions_beside_the_branches_of_convnext() -> None:
    plain, manager, sites = pair("convnext", "convpass", sites=("parallel_mlp_ln",), bottleneck_dim=4)

    def beside(block: int, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        module = sites["parallel_mlp_ln", block]
        quick = lambda t: t * torch.sigmoid(1.702 * t)  # noqa: E731
        z = quick(F.linear(n, module.down.weight, module.down.bias)).permute(0, 3, 1, 2)
        z = quick(F.conv2d(z, module.conv.weight, module.conv.bias, padding=1)).permute(0, 2, 3, 1)
        return F.linear(z, module.up.weight, module.up.bias)

    equal(manager, convnext(plain, beside=beside), plain)


@torch.no_grad()
def test_a_convolutional_mlp_is_served_like_a_linear_one() -> None:
    """timm builds ConvNeXt with linear layers on (B, H, W, C) or 1 x 1 convolutions on (B, C, H, W)."""
    found = []
    for conv_mlp in (False, True):
        torch.manual_seed(0)
        small: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48), "ls_init_value": 0.5}
        model: Any = timm.create_model("convnext_tiny", num_classes=0, conv_mlp=conv_mlp, **small).double()
        if conv_mlp:
            state = {n: v.view_as(model.state_dict()[n]) for n, v in found[0][1].items()}
            model.load_state_dict(state)
        state = {n: v.clone() for n, v in model.state_dict().items()}
        manager = mtpeft.attach(model, "adaptformer", sites=("parallel_mlp_ln",), bottleneck_dim=4)
        manager.add_task("birds", num_classes=3)
        perturb(manager, std=0.2)
        found.append((manager.eval().features(X, "birds"), state))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-10, rtol=1e-8)


def test_low_rank_updates_need_linear_layers() -> None:
    model = timm.create_model("convnext_atto", num_classes=0)  # its MLPs are 1 x 1 convolutions
    with pytest.raises(ConfigError, match="'lora' cannot be attached to ConvNeXt: site 'fc1' is not a linear layer"):
        mtpeft.attach(model, "lora", sites=("fc1", "fc2"))


@torch.no_grad()
def test_response_norms_of_convnext_v2_are_left_to_themselves() -> None:
    """They add their input to what they give, which no scale and shift could be folded into."""
    small: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48)}
    model = timm.create_model("convnextv2_tiny", num_classes=0, **small).double()
    norms = [s for s in Anatomy(model).sites if s.kind == "grn"]
    assert len(norms) == 4 and all("norms" in s.tags and "operations" not in s.tags for s in norms)
    manager = mtpeft.attach(model, "ssf")
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    manager.eval()
    torch.testing.assert_close(manager.merge("birds")(X), manager(X, "birds"), atol=1e-9, rtol=1e-8)


@torch.no_grad()
def test_the_maps_of_hiera_are_in_their_places() -> None:
    """Its tokens run in an order of their own; maps at the stage ends are timm's."""
    backbone: Any = tiny_backbone("hiera").double()
    expected = backbone.forward_intermediates(X, intermediates_only=True)
    manager = mtpeft.attach(backbone, "linear_probe")
    manager.add_task("depth", head="stage_linear", channels=1)
    found = extract(manager, X, Selection(("depth",)), {"stages", "map"})
    for map_, own in zip(found["stages"], expected, strict=True):
        torch.testing.assert_close(map_, own, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(found["map"], expected[-1], atol=1e-12, rtol=1e-9)
    assert [stage.stride for stage in manager.anatomy.stages] == [4, 8]


@torch.no_grad()
def test_adapters_in_the_branches_of_hiera() -> None:
    """The block's own forward with AdaptFormer's sum beside its MLP, pooled queries included."""
    plain, manager, sites = pair("hiera", "adaptformer", bottleneck_dim=4)
    x = plain.unroll(plain._pos_embed(plain.patch_embed(X)))
    for index, block in enumerate(plain.blocks):
        normed, shortcut = layer_norm(x, block.norm1), x
        if block.do_expand:
            projected = F.linear(normed, block.proj.weight, block.proj.bias)
            shortcut = projected.unflatten(1, (4, -1)).amax(1)
        stream = shortcut + block.attn(normed)
        adapter = sites["parallel_mlp", index].adapter
        z = F.relu(F.linear(stream, adapter.down.weight, adapter.down.bias))
        beside = 0.1 * F.linear(z, adapter.up.weight, adapter.up.bias)
        x = stream + block.mlp(layer_norm(stream, block.norm2)) + beside
    equal(manager, layer_norm(x.mean(1), plain.head.norm), plain)


@pytest.mark.parametrize("anatomy", ["convnext", "hiera", "t2t_vit"])
def test_every_bias_and_every_norm_is_trained(anatomy: str) -> None:
    plain = tiny_backbone(anatomy)
    biases = {name for name, _ in plain.named_parameters() if name.endswith(".bias")}
    norms = {f"{path}.weight" for path, module in plain.named_modules() if isinstance(module, nn.LayerNorm)}
    for method, expected in (("bitfit", biases), ("ln_tune", norms)):
        manager = mtpeft.attach(tiny_backbone(anatomy), method)
        found = [site.bias if method == "bitfit" else site.weight for site in manager.methods[0].selected]
        assert len(found) == len(expected) and set(found) == expected


@pytest.fixture(scope="module")
def convnext_b() -> nn.Module:
    return timm.create_model("convnext_base", num_classes=0)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        # published for CIFAR-100: 0.36 M with the head of 100 classes
        ("ssf", {}, 14 * 18_048 + 2 * 2 * 128 + 2 * (896 + 1_792) + 2 * 1_024),
        ("adaptformer", {"bottleneck_dim": 8}, 17 * 18_048 + 36 * 8),
        ("lora", {"sites": ("fc1", "fc2"), "rank": 4}, 4 * 10 * 18_048),
    ],
)
def test_trained_weights_on_convnext_b(
    convnext_b: nn.Module, method: str, options: dict[str, Any], expected: int
) -> None:
    manager = mtpeft.attach(convnext_b, method, **options)
    try:
        manager.add_task("birds", num_classes=100)
        assert manager.num_trainable("birds", heads=False) == expected
        if method == "ssf":
            assert expected == 260_608 and manager.num_trainable("birds") == 363_108
    finally:
        manager.detach()


def test_what_is_not_a_network_of_such_blocks_throughout_is_refused() -> None:
    """EdgeNeXt has blocks of convolutions, and others with attention of which nothing is known."""
    with pytest.raises(ConfigError, match="EdgeNeXt is not supported: it has attention outside of its blocks"):
        mtpeft.attach(timm.create_model("edgenext_xx_small", num_classes=0), "ssf")
