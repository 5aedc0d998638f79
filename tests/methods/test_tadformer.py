"""TADFormer: prompts, streams and filters against loops over windows, heads and places; its counts, and what all tasks share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import T, gelu, linear, norm
from naive_task_prompts import SCALE, TASKS, made, read, stage_ends
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb


def filtered(x: T, site: Any, static: Any) -> T:
    """Maps (B, h, w, r): a depth-wise convolution, place by place."""
    count, height, width, channels = x.shape
    if static is None:
        dtf = site.filter
        raw = linear(dtf.kernels, x.mean(dim=(1, 2))).reshape(count, channels, 9)
        spread = ((raw - raw.mean(-1, keepdim=True)) ** 2).sum(-1, keepdim=True) / 8
        kernels = (raw - raw.mean(-1, keepdim=True)) / (spread.sqrt() + 1e-10) * dtf.std + dtf.mean
        bias: Any = 0.0
    else:
        kernels, bias = static.weight.reshape(1, channels, 9).expand(count, -1, -1), static.bias
    out = torch.zeros_like(x) + bias
    for i in range(height):
        for j in range(width):
            for tap in range(9):
                row, column = i + tap // 3 - 1, j + tap % 3 - 1
                if 0 <= row < height and 0 <= column < width:
                    out[:, i, j] += kernels[:, :, tap] * x[:, row, column]
    return out


def update(site: Any, maps: T, static: Any) -> T:
    """s B DTF(A x) of maps (B, h, w, in)."""
    return SCALE * filtered(maps @ site.update.lora_A.T, site, static) @ site.update.lora_B.T


def naive(manager: Any, task: str) -> list[T]:
    """The task's features at the ends of both stages, (B, H, W, C)."""
    streams, mine, features = manager.attachments[0].weights.tasks[f"task={task}"], TASKS.index(task), []
    for end in stage_ends(manager, SCALE):
        own, block, frozen = dict(streams[str(end.number)].filters.items()), end.block, end.frozen
        branch, focus = torch.zeros_like(end.entry), torch.zeros_like(end.entry)
        for window in end.windows:
            o = window.attended
            f = torch.zeros_like(window.keys)
            for h in range(block.attn.num_heads):
                asked = gelu((window.queries[:, mine, None, h] * window.keys[:, :, h]).sum(-1, keepdim=True))
                f[:, :, h] = asked * o.unflatten(-1, (block.attn.num_heads, -1))[:, :, h]
            f = f.flatten(2)
            maps = norm(end.sites["proj"].prompt_norm, f + o).unflatten(1, block.window_size)
            y = linear(frozen.attn.proj, o) + update(end.sites["proj"], maps, own.get("proj")).flatten(1, 2)
            for token, (i, j) in enumerate(window.places):
                focus[:, i, j], branch[:, i, j] = f[:, token], y[:, token]
        z_t, inner = end.entry + branch, norm(block.norm2, end.stream)
        low = update(end.sites["fc1"], norm(block.norm2, z_t), own.get("fc1"))
        h_t = gelu(linear(frozen.mlp.fc1, inner) + low)
        hidden = gelu(linear(block.mlp.fc1, inner))
        out = z_t + linear(frozen.mlp.fc2, hidden) + update(end.sites["fc2"], h_t, own.get("fc2"))
        gate = 1 / (1 + (-end.sites["proj"].gate).exp())
        features.append(gate * focus + (1 - gate) * out)
    return features


@pytest.mark.parametrize("filters", ["dynamic", "static"])
@torch.no_grad()
def test_it_equals_its_formula(filters: str) -> None:
    manager = made("tadformer", filter=filters)
    perturb(manager, std=0.2)
    for task in TASKS[1:]:
        for found, expected in zip(read(manager, task), naive(manager, task), strict=True):
            torch.testing.assert_close(found, expected.permute(0, 3, 1, 2), rtol=0, atol=1e-9)


@torch.no_grad()
def test_exported_graphs_filter_tap_by_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    site = made("tadformer").attachments[0].weights.common.sites["layers-0-blocks-1-mlp-fc1"]
    maps = torch.randn(4, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = site.filter(maps)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    monkeypatch.setattr(torch.nn.functional, "conv2d", None)  # its groups would be as many as maps
    torch.testing.assert_close(site.filter(maps), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_heads_may_read_behind_the_frozen_patch_merging() -> None:
    class Coarse(nn.Module):
        reads = "merged"

        def forward(self, maps: list[T]) -> T:
            return maps[0]

    manager = made("tadformer")
    perturb(manager, std=0.2)
    features = naive(manager, "depth")
    manager.heads["task=depth"] = Coarse()
    merged = read(manager, "depth")
    expected = [manager.backbone.layers[1].downsample(features[0]), features[1]]
    for one, other in zip(merged, expected, strict=True):
        torch.testing.assert_close(one, other.permute(0, 3, 1, 2), rtol=0, atol=1e-9)
    trained = {name for name, _ in manager.trainable_parameters() if name.startswith("backbone.")}
    assert "backbone.layers.1.downsample.norm.weight" in trained
    assert not any("reduction" in name for name in trained)


@torch.no_grad()
def test_how_it_starts() -> None:
    torch.manual_seed(0)
    manager: Any = mtpeft.attach(tiny_backbone("swin"), "tadformer", rank=8)
    for task in "abcdefgh":
        manager.add_task(task, head="stage_linear", channels=1)
    weights = manager.attachments[0].weights
    prompts = torch.cat([own["layers-0-blocks-0-tokens"].prompt for own in weights.joined.values()])
    assert prompts.shape == (8, 24) and abs(prompts.mean() - 0.72) < 0.15  # N(1, 1), cut off at 2
    assert 1.8 < prompts.max() <= 2 and prompts.min() < -0.5
    up = weights.common.sites["layers-1-blocks-0-tokens"].up
    assert up.shape == (48, 24) and abs(up.std() - 0.02) < 0.003
    proj = weights.common.sites["layers-0-blocks-1-attn-proj"]
    assert proj.gate == 0 and not proj.update.lora_B.any() and proj.update.lora_A.any()
    assert abs(proj.filter.std.std() - 2**0.5 / 3) < 0.15 and abs(proj.filter.mean.std() - 1) < 0.3
    inner = weights.common.sites["layers-0-blocks-0-attn-proj"]
    assert {name for name, _ in inner.named_parameters()} == {"update.lora_A", "update.lora_B"}


@torch.no_grad()
def test_prompts_of_all_tasks_are_part_of_every_pass() -> None:
    manager = made("tadformer")
    perturb(manager, std=0.2)
    before = manager(images(2, torch.float64), "depth")
    manager.add_task("parts", head="stage_linear", channels=2)
    assert (manager(images(2, torch.float64), "depth") - before).abs().max() > 1e-6
    manager.remove_task("parts")
    assert torch.equal(manager(images(2, torch.float64), "depth"), before)
    used = {name for name, _ in manager.trainable_parameters("depth")}
    assert sum(name.endswith("tokens.prompt") for name in used) == len(TASKS)


def test_a_frozen_task_keeps_its_filters_and_others_train_its_prompt() -> None:
    manager = made("tadformer", filter="static")
    manager.freeze_task("depth")
    trained = {name for name, _ in manager.trainable_parameters()}
    assert not any("task=depth" in name for name in trained)
    assert any("of=depth" in name for name in trained)


#: rank, filters -> weights of encoder and decoders, and what is published
COUNTS = [
    (16, "dynamic", 3_559_038, 3.56),
    (32, "dynamic", 4_777_662, 4.78),
    (64, "dynamic", 7_380_798, 7.38),
    (64, "static", 6_948_414, 6.95),
]
#: norms of prompts that the authors' code has in the eight blocks that do not end a stage, and never uses
UNUSED = 2 * (96 + 192 + 5 * 384 + 768)


@pytest.mark.parametrize(("rank", "filters", "expected", "published"), COUNTS)
def test_counts_on_swin_t(swin_t: nn.Module, rank: int, filters: str, expected: int, published: float) -> None:
    manager = mtpeft.attach(swin_t, "tadformer", rank=rank, filter=filters, final_norm=True)
    try:
        for task, channels in {"semseg": 21, "parts": 7, "saliency": 1, "normals": 3}.items():
            manager.add_task(task, head="hrnet_merged", channels=channels)
        assert manager.num_trainable() == expected - UNUSED
        assert round(expected / 1e6, 2) == published
    finally:
        manager.detach()


@pytest.mark.parametrize(
    ("method", "anatomy"), [("vpt_shallow", "swin"), ("vpt_deep", "swin"), ("vqt", "vit"), ("vqt", "dinov2")]
)
@torch.no_grad()
def test_streams_read_the_patches_beside_tokens_of_another_method(method: str, anatomy: str) -> None:
    """Streams that add nothing yet give what the shared pass gives; what other tokens pass through is none of theirs."""
    alone: Any = mtpeft.attach(tiny_backbone(anatomy).double(), method, num_tokens=3)
    both: Any = mtpeft.attach(
        tiny_backbone(anatomy).double(), [{"name": "mtlora", "final_norm": True}, {"name": method, "num_tokens": 3}]
    )
    for manager in (alone, both):
        manager.add_task("depth", head="stage_linear", channels=2)
        manager.eval()
    bank, other = alone.attachments[0].weights.bank("depth"), both.attachments[1].weights.bank("depth")
    other.load_state_dict(bank.state_dict())
    for one, two in zip(read(alone, "depth"), read(both, "depth"), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


def test_what_it_cannot_serve_is_refused() -> None:
    for anatomy in ("vit", "swinv2", "pvt_v2", "convnext"):
        with pytest.raises(ConfigError, match=r"'tadformer' cannot be attached"):
            mtpeft.attach(tiny_backbone(anatomy), "tadformer")
    with pytest.raises(ConfigError, match="its prompts stand in Swin's windows"):
        mtpeft.attach(tiny_backbone("vit"), "tadformer")
    with pytest.raises(ConfigError, match="rank has 3 values, and the backbone 2 stages"):
        mtpeft.attach(tiny_backbone("swin"), "tadformer", rank=(1, 2, 3))
    with pytest.raises(ConfigError, match="its task streams need the sites proj, fc1 and fc2"):
        mtpeft.attach(tiny_backbone("swin"), "tadformer", sites=("qkv", "proj"))
    with pytest.raises(ConfigError, match="keep the blocks 1, 3"):
        mtpeft.attach(tiny_backbone("swin"), "tadformer", blocks=(0, 1))
    with pytest.raises(ConfigError, match="'norm1' is not a linear layer"):
        mtpeft.attach(tiny_backbone("swin"), "tadformer", sites=("norm1", "proj", "fc1", "fc2"))
