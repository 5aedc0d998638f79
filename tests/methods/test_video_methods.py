"""Methods for clips against their papers' formulas, and what time means to each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import naive_swin
import pytest
import torch
from naive import NaiveViT, assert_close, attached, gelu, linear, norm

import mtpeft
from mtpeft.errors import ConfigError, DataError
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import clips, perturb

T = torch.Tensor
FRAMES = 3
X = clips(2).double()  # (2, 3, T, 64, 64)
FOLDED = X.transpose(1, 2).flatten(0, 1)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def adapter(site: Any, x: T) -> T:
    return linear(site.adapter.up, gelu(linear(site.adapter.down, x)))


def expected_features(plain: NaiveViT) -> T:
    """Class tokens of all frames, averaged over the clip."""
    return plain(FOLDED)[:, 0].view(2, FRAMES, -1).mean(1)


def over_time(plain: NaiveViT, block: Any, u: T, i: int) -> T:
    """Attention of every place's tokens over the frames, one place after another. u (B T, N, C)."""
    out = torch.empty_like(u)
    for clip in range(2):
        rows = slice(clip * FRAMES, (clip + 1) * FRAMES)
        for place in range(u.shape[1]):
            out[rows, place] = plain.attention(block, u[rows, place].unsqueeze(0), i)[0]
    return out


@pytest.mark.parametrize(("anatomy", "temporal_adapters"), [("vit", 1), ("vit", 2), ("dinov2", 1)])
def test_aim(anatomy: str, temporal_adapters: int) -> None:
    """Layer scale (of DINOv2) belongs to the branch over space alone."""
    options = {"num_frames": FRAMES, "temporal_adapters": temporal_adapters, "joint_scale": 0.7}
    model, manager, sites = attached(anatomy, "aim", **options)
    assert hasattr(model.blocks[0].ls1, "gamma") == (anatomy == "dinov2")
    inner = NaiveViT(model)

    def enter(x: T, i: int) -> T:
        if i == 0:
            x = x + sites["frames_embed", None].positions.repeat(2, 1, 1)
        u = norm(model.blocks[i].norm1, x)
        if temporal_adapters == 2:
            u = u + adapter(sites["temporal_in", i], u)
        return x + adapter(sites["temporal", i], over_time(inner, model.blocks[i], u, i))

    plain = NaiveViT(
        model,
        tokens=enter,
        attention_branch=lambda y, x, u, i: y + adapter(sites["after_attention", i], y),
        mlp_branch=lambda y, x, u, i: y + 0.7 * adapter(sites["parallel_mlp_ln", i], u),
        final_norm=lambda y, x: norm(sites["final_norm", None].norm, x),
    )
    assert_close(manager.features(X, "birds"), expected_features(plain))


def st(site: Any, x: T) -> T:
    """The adapter on the stream (B T, 1 + N, C), frame by frame, kernel (3, 1, 1)."""
    z = linear(site.down, x[:, 1:])
    weight, out = site.conv.weight[:, 0, :, 0, 0], torch.zeros_like(z)
    for row in range(len(x)):
        for tap in (-1, 0, 1):
            neighbour = row + tap
            if neighbour // FRAMES == row // FRAMES and neighbour >= 0:
                out[row] += weight[:, tap + 1] * z[neighbour]
    change = linear(site.up, out + site.conv.bias)
    return torch.cat([x[:, :1], x[:, 1:] + change], dim=1)


@pytest.mark.parametrize("position", ["pre_attn", "pre_mlp", "both"])
def test_st_adapter(position: str) -> None:
    model, manager, sites = attached("vit", "st_adapter", position=position, bottleneck_dim=6)
    changes: dict[str, Any] = {}
    if position != "pre_mlp":
        changes["tokens"] = lambda x, i: st(sites["frames_block", i], x)
    if position != "pre_attn":
        changes["attention_branch"] = lambda y, x, u, i: st(sites["frames_mlp", i], x + y) - x
    assert_close(manager.features(X, "birds"), expected_features(NaiveViT(model, **changes)))


def test_st_adapter_of_one_frame_is_a_bottleneck() -> None:
    model, manager, sites = attached("dinov2", "st_adapter", position="pre_attn", bottleneck_dim=6)
    images = X[:, :, 0]

    def enter(x: T, i: int) -> T:
        site = sites["frames_block", i]
        z = linear(site.down, x[:, 5:]) * site.conv.weight[:, 0, 1, 0, 0] + site.conv.bias
        return torch.cat([x[:, :5], x[:, 5:] + linear(site.up, z)], dim=1)

    assert_close(manager.features(images, "birds"), NaiveViT(model, tokens=enter)(images)[:, 0])


@pytest.mark.parametrize(("kernel", "moves"), [((3, 3, 3), True), ((1, 3, 3), False)])
def test_a_kernel_over_space_is_the_full_convolution(kernel: tuple[int, int, int], moves: bool) -> None:
    _, manager, sites = attached("vit", "st_adapter", kernel=kernel, bottleneck_dim=4)
    site = sites["frames_mlp", 0]
    x = torch.randn(2, FRAMES, 17, 48, dtype=torch.float64)
    z = linear(site.down, x[:, :, 1:]).permute(0, 3, 1, 2).unflatten(3, (4, 4))
    z = torch.nn.functional.pad(z, [k // 2 for k in reversed(kernel) for _ in range(2)])
    total = 0.0
    for t in range(kernel[0]):
        for h in range(kernel[1]):
            for w in range(kernel[2]):
                tap = site.conv.weight[:, 0, t, h, w].view(-1, 1, 1, 1)
                total = total + tap * z[:, :, t : t + FRAMES, h : h + 4, w : w + 4]
    expected = linear(site.up, (total + site.conv.bias.view(-1, 1, 1, 1)).flatten(3).permute(0, 2, 3, 1))
    assert_close(site(x)[:, :, 1:], expected)
    assert not site(x)[:, :, 0].any()
    reordered = manager.features(X.flip(2), "birds")
    assert torch.allclose(reordered, manager.features(X, "birds")) is not moves


@pytest.mark.parametrize("mode", ["kv", "qv", "qk", "qkv"])
def test_patt(mode: str) -> None:
    model, manager, sites = attached("vit", "patt", mode=mode, scale=0.3)

    def qkv(y: T, u: T, i: int) -> T:
        site = sites["qkv", i]
        change = linear(site.up, torch.tanh(linear(site.down, u)))
        parts = list(y.split(48, dim=-1))
        for position, name in enumerate(mode):
            parts["qkv".index(name)] = parts["qkv".index(name)] + 0.3 * change[..., position * 48 : (position + 1) * 48]
        return torch.cat(parts, dim=-1)

    assert_close(manager.features(X[:, :, 0], "birds"), NaiveViT(model, qkv=qkv)(X[:, :, 0])[:, 0])


def test_v_peft_is_patt_beside_an_adapter_of_the_normed_input() -> None:
    backbone: Any = tiny_backbone("vit").double()
    parts = [{"name": "patt"}, {"name": "adaptformer", "sites": ["parallel_mlp_ln"], "dropout": 0.0}]
    manager = mtpeft.attach(backbone, parts)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    patt, former = (
        {(s.kind, s.block): a.weights.bank("birds").sites[s.key] for s in a.selected} for a in manager.methods
    )

    def qkv(y: T, u: T, i: int) -> T:
        change = linear(patt["qkv", i].up, torch.tanh(linear(patt["qkv", i].down, u)))
        return torch.cat([y[..., :48], y[..., 48:] + 0.8 * change], dim=-1)

    def mlp(y: T, x: T, u: T, i: int) -> T:
        site = former["parallel_mlp_ln", i].adapter
        return y + 0.1 * linear(site.up, linear(site.down, u).clamp(min=0))

    plain = NaiveViT(tiny_backbone("vit").double(), qkv=qkv, mlp_branch=mlp)
    assert_close(manager.features(X, "birds"), expected_features(plain))


def test_aim_on_swin_attends_over_time_without_the_table_of_the_window() -> None:
    model, manager, sites = attached("swin", "aim", num_frames=FRAMES)
    block, entries = manager.backbone.layers[0].blocks[0], []  # type: ignore[union-attr, index]
    plain_block = model.layers[0].blocks[0]
    handle = block.norm1.register_forward_hook(lambda m, args, out: entries.append(args[0]))
    manager.features(X, "birds")
    handle.remove()
    tracks, entry = entries[0], entries[1]  # (B N, T, C) over time, then (B T, H, W, C) over space
    height, width = entry.shape[1:3]
    before = model.patch_embed(FOLDED) + sites["frames_embed", None].positions.view(FRAMES, 1, 1, -1).repeat(2, 1, 1, 1)
    u = norm(plain_block.norm1, before)
    expected = before.clone()
    for clip in range(2):
        rows = slice(clip * FRAMES, (clip + 1) * FRAMES)
        for h in range(height):
            for w in range(width):
                attended = NaiveViT(model).attention(plain_block, u[rows, h, w].unsqueeze(0), 0)[0]
                expected[rows, h, w] += adapter(sites["temporal", 0], attended)
    assert tracks.shape == (2 * height * width, FRAMES, 24)
    assert_close(entry, expected)


@pytest.mark.parametrize("options", [{}, {"temporal_every": 1, "train_norm": True}])
def test_aim_on_swin_is_the_authors_by_structure(options: dict[str, Any]) -> None:
    """Every second block of a stage attends over time, those of unshifted windows; the final norm stays the backbone's."""
    model, manager, sites = attached("swin", "aim", num_frames=FRAMES, **options)
    every = options.get("temporal_every", 2)
    blocks = [block for stage in model.layers for block in stage.blocks]
    assert [any(block.shift_size) for block in blocks] == [False, True, False, True]
    assert sorted(i for kind, i in sites if kind == "temporal") == ([0, 2] if every == 2 else [0, 1, 2, 3])
    assert (("final_norm", None) in sites) is bool(options)
    x = model.patch_embed(FOLDED) + sites["frames_embed", None].positions.view(FRAMES, 1, 1, -1).repeat(2, 1, 1, 1)
    for number, block in enumerate(blocks):
        if number == 2:
            x = model.layers[1].downsample(x)
        height, width = x.shape[1:3]
        if ("temporal", number) in sites:
            attended, u = torch.empty_like(x), norm(block.norm1, x)
            for clip in (slice(0, FRAMES), slice(FRAMES, 2 * FRAMES)):
                for h in range(height):
                    for w in range(width):
                        attended[clip, h, w] = NaiveViT(model).attention(block, u[clip, h, w].unsqueeze(0), number)[0]
            x = x + adapter(sites["temporal", number], attended)
        u, branch = norm(block.norm1, x), torch.zeros_like(x)
        for window in naive_swin.positions(block, height, width):
            inside = torch.stack([u[:, i, j] for i, j in window], dim=1)
            out = naive_swin.attention(block, inside, naive_swin.logits(block, window, (height, width), 0))
            for token, (i, j) in enumerate(window):
                branch[:, i, j] = out[:, token]
        x = x + branch + adapter(sites["after_attention", number], branch)
        u = norm(block.norm2, x)
        mlp = linear(block.mlp.fc2, gelu(linear(block.mlp.fc1, u)))
        x = x + mlp + 0.5 * adapter(sites["parallel_mlp_ln", number], u)
    x = norm(sites["final_norm", None].norm if options else model.norm, x)
    assert_close(manager.features(X, "birds"), x.mean(dim=(1, 2)).view(2, FRAMES, -1).mean(1))


@pytest.mark.parametrize("init", ["linear", "trunc_normal"])
def test_patt_starts_as_torch_s_linear_layers_do(init: str) -> None:
    """Uniform in +- 1 / sqrt(fan in), weights and biases; or the normal distribution cut at two units, biases zero."""
    options = {} if init == "linear" else {"init": init}
    manager = mtpeft.attach(tiny_backbone("vit"), "patt", bottleneck_dim=64, **options)
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.attachments[0].weights.bank("birds")  # type: ignore[operator, union-attr]
    for site in bank.sites.values():
        for layer in (site.down, site.up):
            bound = 1 / layer.in_features**0.5
            if init == "linear":
                for tensor in (layer.weight, layer.bias):
                    assert 0.8 * bound < tensor.abs().max() <= bound
                assert abs(layer.weight.std() - bound / 3**0.5) < 0.05 * bound
            else:
                assert abs(layer.weight.std() - 0.02) < 0.002 and not layer.bias.any()
    zero = mtpeft.attach(tiny_backbone("vit"), "patt", zero_init=True, **options)
    zero.add_task("birds", num_classes=3)
    images = FOLDED.float()
    torch.testing.assert_close(
        zero.features(images, "birds"), NaiveViT(tiny_backbone("vit"))(images)[:, 0], atol=1e-5, rtol=1e-4
    )


def made(method: Any, anatomy: str = "vit", **options: Any) -> TaskManager:
    manager = mtpeft.attach(tiny_backbone(anatomy), method, **options)
    manager.add_task("birds", num_classes=3)
    perturb(manager)
    return manager.eval()


@pytest.mark.parametrize("method", ["linear_probe", "lora", "adaptformer", "vpt_deep", "ssf", "patt", "full"])
def test_without_modelling_of_time_forward_and_reverse_are_one(method: str) -> None:
    """The mean over frames has no order: whatever is learned, it gives both the same score, so it is right on half."""
    manager, batch = made(method), clips(4)
    torch.testing.assert_close(manager(batch, "birds"), manager(batch.flip(2), "birds"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [{"name": "aim", "num_frames": FRAMES}, {"name": "st_adapter", "bottleneck_dim": 8}])
def test_methods_for_clips_tell_forward_from_reverse(method: dict[str, Any]) -> None:
    manager, batch = made(method), clips(4)
    difference = (manager(batch, "birds") - manager(batch.flip(2), "birds")).abs().amax(dim=1)
    assert difference.min() > 1e-4, difference


def test_temporal_attention_is_what_the_blocks_attend_to() -> None:
    manager, batch = made("aim", num_frames=FRAMES), clips(2)
    found = manager.temporal_attention(batch, "birds")
    assert list(found) == [0, 1]
    for weights in found.values():
        assert weights.shape == (2, FRAMES, FRAMES)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, FRAMES))
    block = manager.backbone.blocks[0]  # type: ignore[union-attr, index]
    kept: list[T] = []
    handle = block.norm1.register_forward_hook(lambda m, args, out: kept.append(out))
    manager.features(batch, "birds")
    handle.remove()
    q, k, _ = block.attn.qkv(kept[0]).chunk(3, dim=-1)
    q, k = (x.unflatten(-1, (3, 16)).transpose(1, 2) for x in (q, k))
    expected = (q @ k.transpose(-2, -1) / 4).softmax(-1).mean(1).unflatten(0, (2, 17)).mean(1)
    torch.testing.assert_close(found[0], expected, atol=1e-6, rtol=1e-5)
    assert made("lora").temporal_attention(batch, "birds") == {}


def test_an_image_has_no_time_for_aim() -> None:
    manager, images = made("aim", num_frames=FRAMES), clips(2)[:, :, 0]
    one = manager.features(images, "birds")
    torch.testing.assert_close(manager.features(images.unsqueeze(2), "birds"), one, atol=0, rtol=0)
    manager.attachments[0].weights.bank("birds").sites["norm_pre-frames_embed"].positions += 1.0  # type: ignore[operator, union-attr]
    torch.testing.assert_close(manager.features(images, "birds"), one, atol=0, rtol=0)


def test_drop_path_drops_whole_rows_in_training_alone() -> None:
    manager = made("aim", num_frames=FRAMES, drop_path=0.5)
    site: Any = manager.attachments[0].weights.bank("birds").sites["blocks-1-temporal"]  # type: ignore[operator, union-attr]
    x = torch.randn(400, FRAMES, 48)
    whole = site(x)
    site.train()
    torch.manual_seed(0)
    dropped = site(x)
    kept = dropped.abs().amax(dim=(1, 2)) > 0
    assert 150 < int(kept.sum()) < 250
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    first: Any = manager.attachments[0].weights.bank("birds").sites["blocks-0-temporal"]  # type: ignore[operator, union-attr]
    torch.testing.assert_close(first.train()(x), first.eval()(x))


@pytest.mark.parametrize("position", ["pre_attn", "pre_mlp"])
def test_prompts_pass_by_what_is_for_clips(position: str) -> None:
    """Prompts are no patches: what the convolution adds does not depend on how many of them are in the block."""
    prompts = {"name": "vpt_deep", "num_tokens": 5}
    adapter = {"name": "st_adapter", "bottleneck_dim": 8, "kernel": (3, 3, 3), "position": position}
    both = made([prompts, adapter])
    site: Any = both.attachments[1].weights.banks()[0].sites  # type: ignore[operator, union-attr]
    seen: list[T] = []
    for module in site.values():
        module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    assert both(clips(2), "birds").shape == (2, 3)
    assert [tuple(x.shape) for x in seen] == [(2, FRAMES, 17, 48)] * 2
    assert both(clips(2)[:, :, 0], "birds").shape == (2, 3)


@pytest.mark.parametrize(
    ("method", "anatomy", "options", "words"),
    [
        ("aim", "pvt_v2", {}, "it needs blocks that norm before one attention that knows no places, and the model is "),
        ("aim", "vit", {"temporal_adapters": 3}, "temporal_adapters is 3, expected one of 1, 2"),
        (
            "st_adapter",
            "vit",
            {"position": "pre_atn"},
            "position is 'pre_atn', expected one of pre_mlp, pre_attn, both. Did you mean 'pre_attn'",
        ),
        (
            "st_adapter",
            "vit",
            {"kernel": (2, 1, 1)},
            r"kernel is \(2, 1, 1\), expected a list of 3 odd whole numbers from 1",
        ),
        ("st_adapter", "vit", {"kernel": 3}, "kernel is 3, expected a list of 3 odd whole numbers from 1"),
        ("st_adapter", "vit", {"bottleneck_dim": 0}, "bottleneck_dim is 0"),
        ("st_adapter", "vit", {"sites": ["temporal"]}, "it cannot act at the sites temporal"),
        ("aim", "vit", {"sites": ["frames_block"]}, "it cannot act at the sites frames_block"),
        ("aim", "vit", {"sites": ["temporal_in"]}, "temporal_in needs the site temporal"),
        ("aim", "vit", {"num_frames": 0}, "num_frames is 0"),
        ("aim", "vit", {"reduction": 0}, "reduction is 0"),
        ("aim", "vit", {"drop_path": 1.5}, "drop_path is 1.5"),
        ("aim", "swin", {"temporal_every": 0}, "temporal_every is 0"),
        ("patt", "vit", {"init": "zeros"}, "init is 'zeros', expected one of linear, trunc_normal"),
        ("patt", "vit", {"bottleneck_dim": 0}, "bottleneck_dim is 0"),
        ("ssf", "vit", {"sites": ["frames_block", "temporal"]}, "it cannot act at the sites frames_block, temporal"),
        ("st_adapter", "vit", {"activation": "swish"}, "activation is 'swish', expected one of none, relu, gelu, silu"),
        ("patt", "vit", {"mode": "vk"}, "mode is 'vk', expected one of kv, qv, qk, qkv"),
        ("patt", "eva02", {}, "needs one fused projection qkv"),
        ("patt", "pvt_v2", {}, "needs one fused projection qkv"),
    ],
)
def test_what_cannot_be_is_refused(method: str, anatomy: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        mtpeft.attach(tiny_backbone(anatomy), method, **options)


def test_clips_of_another_length_are_named() -> None:
    with pytest.raises(DataError, match="clips of 3 frames, but `aim` was attached with num_frames=8"):
        made("aim")(clips(2), "birds")
