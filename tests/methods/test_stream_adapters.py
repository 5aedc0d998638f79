"""Adapters in the stream and behind branches, written out in plain tensor algebra: Adapter+, Mona, LoRand, Rob-Adapter."""

from __future__ import annotations

import math
from typing import Any

import naive
import pytest
import torch
from counted import trained
from naive import NaiveViT, T, assert_close, attached, gelu, linear, tokens

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

X = images(2, torch.float64)
VIT_B, SWIN_T, SWIN_B = "vit_base_patch16_224", "swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224"


@pytest.mark.parametrize(
    ("model", "method", "options", "expected"),
    [
        (VIT_B, "adapter_plus", {"bottleneck_dim": 1}, 36_876),
        (VIT_B, "adapter_plus", {}, 165_984),
        (VIT_B, "adapter_plus", {"bottleneck_dim": 32}, 608_640),
        (VIT_B, "adapter_plus", {"learned_scale": "scalar"}, 165_984 - 12 * 767),
        (VIT_B, "adapter_plus", {"position": "houlsby", "learned_scale": "none"}, 313_536),  # Houlsby's own
        (VIT_B, "mona", {}, 2_684_928),
        (SWIN_T, "mona", {}, 1_408_128),
        (SWIN_B, "mona", {}, 3_667_456),
        (VIT_B, "lorand", {}, 915_456),
        (VIT_B, "lorand", {"branches": 4}, 1_803_264),
        (VIT_B, "lorand", {"branches": 4, "rank": 16}, 3_591_168),
        (SWIN_B, "lorand", {}, 1_197_312),
        (SWIN_B, "lorand", {"share_kernel": False}, 1_203_456),
        (VIT_B, "rob_adapter", {}, 1_288_768),
        (VIT_B, "rob_adapter", {"bottleneck_dim": 8}, 169_832),
        (VIT_B, "rob_adapter", {"middle": False}, 99_136),
        (VIT_B, "rob_adapter", {"top": True}, 1_288_768 + 99_136),
    ],
)
def test_trained_weights(model: str, method: str, options: dict[str, Any], expected: int) -> None:
    assert trained(model, method, **options) == expected


def bottleneck(adapter: Any, x: T) -> T:
    return linear(adapter.up, gelu(linear(adapter.down, x)))


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
@torch.no_grad()
def test_adapter_plus_follows_the_block_under_its_scale(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "adapter_plus", bottleneck_dim=5)
    assert list(sites) == [("block", 0), ("block", 1)]

    def output(x: T, i: int) -> T:
        site = sites["block", i]
        assert site.scale.shape == (48,)
        return x + site.scale * bottleneck(site.adapter, x)

    assert_close(tokens(manager, X), NaiveViT(model, output=output)(X))


@pytest.mark.parametrize("position", ["pre", "parallel", "intermediate", "houlsby"])
@torch.no_grad()
def test_positions_of_adapter_plus(position: str) -> None:
    model, manager, sites = attached("dinov2", "adapter_plus", position=position, learned_scale="scalar")

    def adapted(kind: str, z: T, i: int) -> T:
        return sites[kind, i].scale * bottleneck(sites[kind, i].adapter, z)

    changes = {
        "pre": {"attention_branch": lambda y, x, u, i: y + adapted("parallel_attn", x + y, i)},
        "parallel": {"mlp_branch": lambda y, x, u, i: y + adapted("parallel_mlp", x, i)},
        "intermediate": {"mlp_branch": lambda y, x, u, i: y + adapted("after_mlp", y, i)},
        "houlsby": {
            "attention_branch": lambda y, x, u, i: y + adapted("after_attention", y, i),
            "mlp_branch": lambda y, x, u, i: y + adapted("after_mlp", y, i),
        },
    }
    assert_close(tokens(manager, X), NaiveViT(model, **changes[position])(X))


def module_of(method: str, kind: str, **options: Any) -> Any:
    """A freshly initialised site module of block 0 on a backbone of 48 channels."""
    manager = mtpeft.attach(tiny_backbone("vit"), method, **options)
    manager.add_task("birds", num_classes=3)
    attachment: Any = manager.attachments[0]
    site = next(s for s in attachment.selected if s.kind == kind)
    return attachment.weights.bank("birds").sites[site.key]


@torch.no_grad()
def test_adapter_plus_starts_small_as_each_init_says() -> None:
    houlsby = module_of("adapter_plus", "block", bottleneck_dim=32)
    for layer in (houlsby.adapter.down, houlsby.adapter.up):
        assert layer.weight.abs().max() <= 0.02 and 0.007 < layer.weight.std() < 0.01 and not layer.bias.any()
    assert houlsby.scale.eq(1).all()
    bert = module_of("adapter_plus", "block", bottleneck_dim=32, init="bert")
    assert 0.018 < bert.adapter.up.weight.std() < 0.022 and bert.adapter.up.weight.abs().max() > 0.04
    lora = module_of("adapter_plus", "block", bottleneck_dim=32, init="lora")
    assert lora.adapter.down.bias.any() and not lora.adapter.up.weight.any() and not lora.adapter.up.bias.any()


@torch.no_grad()
def test_drop_path_of_adapter_plus_takes_whole_samples_with_their_bias() -> None:
    module = module_of("adapter_plus", "block", drop_path=0.5)
    module.adapter.up.bias += 1.0
    y = torch.randn(64, 5, 48)
    change = module.eval()(y, y) - y
    kept = module.train()(y, y) - y
    dropped = kept.flatten(1).eq(0).all(dim=1)
    assert 10 < dropped.sum() < 54
    torch.testing.assert_close(kept[~dropped], 2 * change[~dropped], atol=1e-5, rtol=1e-5)


def mona(site: Any, z: T, grid: tuple[int, int], prefix: int = 0) -> T:
    """Tokens (B, P + HW, d) -> what the adapter makes of them, kernel by kernel and shift by shift."""
    h = linear(site.down, naive.norm(site.norm, z) * site.gamma + z * site.gamma_x)
    maps = [*(h[:, t : t + 1, None] for t in range(prefix)), h[:, prefix:].unflatten(1, grid)]
    return z + linear(site.up, gelu(torch.cat([convolved(site, image).flatten(1, 2) for image in maps], dim=1)))


def convolved(site: Any, image: T) -> T:
    """(B, H, W, h) -> the same shape."""
    _, height, width, _ = image.shape
    mean = torch.zeros_like(image)
    for conv, size in zip(site.depthwise, (3, 5, 7), strict=True):
        reach = size // 2
        framed = image.new_zeros(len(image), height + 2 * reach, width + 2 * reach, image.shape[-1])
        framed[:, reach : reach + height, reach : reach + width] = image
        mean += conv.bias / 3
        for dy in range(size):
            for dx in range(size):
                mean += framed[:, dy : dy + height, dx : dx + width] * conv.weight[:, 0, dy, dx] / 3
    image = image + mean
    return image + image @ site.pointwise.weight[:, :, 0, 0].T + site.pointwise.bias


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
@torch.no_grad()
def test_mona_in_the_stream_behind_both_branches(anatomy: str) -> None:
    model, manager, sites = attached(anatomy, "mona", bottleneck_dim=6)
    prefix = 1 if anatomy == "vit" else 5

    def behind(kind: str) -> Any:
        return lambda y, x, u, i: mona(sites[kind, i], x + y, (4, 4), prefix) - x

    plain = NaiveViT(model, attention_branch=behind("parallel_attn"), mlp_branch=behind("parallel_mlp"))
    assert_close(tokens(manager, X), plain(X))


@torch.no_grad()
def test_mona_on_the_maps_of_swin() -> None:
    model, manager, sites = attached("swin", "mona", bottleneck_dim=6)
    x, index = model.patch_embed(X), 0
    for layer in model.layers:
        x = layer.downsample(x)
        for block in layer.blocks:
            grid = (x.shape[1], x.shape[2])
            x = x + block._attn(block.norm1(x))  # windows and shift are within; the convolutions see the whole map
            x = mona(sites["parallel_attn", index], x.flatten(1, 2), grid)
            x = x + block.mlp(block.norm2(x))
            x = mona(sites["parallel_mlp", index], x, grid).unflatten(1, grid)
            index += 1
    assert_close(tokens(manager, X), model.norm(x))


@torch.no_grad()
def test_mona_starts_as_the_authors_do_or_at_the_backbone() -> None:
    module = module_of("mona", "parallel_attn")
    assert module.gamma.eq(1e-6).all() and module.gamma_x.eq(1).all()
    for layer in (module.down, module.up):
        assert 0.018 < layer.weight.std() < 0.022 and not layer.bias.any()
    same = module_of("mona", "parallel_attn", init="zeros").eval()
    y = torch.randn(2, 17, 48)
    assert torch.equal(same(torch.randn(2, 17, 48), y), y)


@pytest.mark.parametrize("share_kernel", [True, False])
@torch.no_grad()
def test_lorand_s_projections_are_sums_of_products(share_kernel: bool) -> None:
    model, manager, sites = attached("dinov2", "lorand", branches=3, rank=2, reduction=4, share_kernel=share_kernel)

    def behind(kind: str) -> Any:
        def change(y: T, x: T, u: T, i: int) -> T:
            site = sites[kind, i]
            kernels = site.down.K if share_kernel else site.up.K
            down = sum(site.down.P[b] @ site.down.K[b] @ site.down.Q[b] for b in range(3))
            up = sum(site.up.P[b] @ kernels[b] @ site.up.Q[b] for b in range(3))
            assert down.shape == (48, 12) and up.shape == (12, 48)
            return y + gelu(y @ down + site.down.bias) @ up + site.up.bias

        return change

    plain = NaiveViT(model, attention_branch=behind("after_attention"), mlp_branch=behind("after_mlp"))
    assert_close(tokens(manager, X), plain(X))


@torch.no_grad()
def test_lorand_s_factors_start_within_their_bounds() -> None:
    module = module_of("lorand", "after_mlp")
    columns = {"down.P": 8, "down.K": 8, "down.Q": 24, "down.bias": 48, "up.P": 8, "up.Q": 48, "up.bias": 24}
    assert {name for name, _ in module.named_parameters()} == set(columns)
    for name, count in columns.items():
        largest = module.get_parameter(name).abs().max()
        assert 0.8 / math.sqrt(count) < largest <= 1 / math.sqrt(count), name
    same = module_of("lorand", "after_mlp", init="zeros")
    y = torch.randn(2, 17, 48)
    assert torch.equal(same(y, y), y)


@pytest.mark.parametrize("sections", [(True, True, True), (False, True, True), (True, False, False)])
@torch.no_grad()
def test_rob_adapter_at_the_bottom_in_the_middle_and_at_the_top(sections: tuple[bool, bool, bool]) -> None:
    options = dict(zip(("bottom", "middle", "top"), sections, strict=True))
    model, manager, sites = attached("vit", "rob_adapter", bottleneck_dim=5, **options)
    places = {"patch_embed": "patch_embed", "after_mlp": "mlp_branch", "final_norm": "final_norm"}
    asked = {kind for kind, there in zip(places, sections, strict=True) if there}
    assert {kind for kind, _ in sites} == asked

    def adapted(kind: str) -> Any:
        def change(y: T, *context: Any) -> T:
            site = sites[kind, context[-1] if kind == "after_mlp" else None]
            return y + bottleneck(site.adapter, y)

        return change

    assert_close(tokens(manager, X), NaiveViT(model, **{places[kind]: adapted(kind) for kind in asked})(X))


@pytest.mark.parametrize(
    ("anatomy", "method", "options", "message"),
    [
        ("vit", "adapter_plus", {"sites": ("proj",)}, "cannot act at the sites proj"),
        ("vit", "mona", {"sites": ("after_mlp",)}, "only at parallel_attn and parallel_mlp"),
        ("vit", "lorand", {"sites": ("block",)}, "only at after_attention and after_mlp"),
        ("vit", "rob_adapter", {"sites": ("fc1",)}, "only at patch_embed, after_mlp, final_norm"),
        ("vit", "rob_adapter", {"bottom": False, "middle": False}, "nothing would be trained"),
        ("pvt_v2", "rob_adapter", {"top": True}, "a norm after the last block"),
    ],
)
def test_refusals(anatomy: str, method: str, options: dict[str, Any], message: str) -> None:
    backbone = tiny_backbone(anatomy)
    with pytest.raises(ConfigError, match=message) as error:
        mtpeft.attach(backbone, method, **options)
    assert method in str(error.value) and "\n" not in str(error.value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
