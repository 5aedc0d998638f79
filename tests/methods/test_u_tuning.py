"""U-Tuning: its counts, its branches written out, what they leave frozen, how they start, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from counted import trained
from naive import NaiveViT, assert_close, attached, gelu, linear, norm, tokens

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb

D, HEADS = 48, 3
X = images(2, torch.float64)
ATTENTION, MLP, BLOCK = "parallel_attn_ln", "parallel_mlp_ln", "block"


#: attention, mlp, block, other options, weights for one task
COUNTS: list[tuple[str | None, str | None, str | None, dict[str, Any], int]] = [
    ("adapter", None, None, {"bottleneck_dim": 8}, 156_768),
    (None, "adapter", None, {"bottleneck_dim": 10}, 193_656),
    (None, None, "adapter", {"bottleneck_dim": 20}, 378_096),
    ("prefix", None, None, {"num_tokens": 10}, 184_320),
    (None, "prefix", None, {"num_tokens": 20}, 368_640),
    ("prompt", None, None, {"num_tokens": 10}, 92_160),
    (None, None, "prompt", {"num_tokens": 20}, 184_320),
    ("prefix", "adapter", None, {"num_tokens": 10, "bottleneck_dim": 10}, 377_976),
    ("adapter", "adapter", None, {"bottleneck_dim": 10}, 387_312),
    ("prefix", "adapter", None, {"num_tokens": 10, "bottleneck_dim": 8}, 341_088),
    ("prefix", "adapter", None, {"learnable_scale": True}, 377_976 + 24),
]


@pytest.mark.parametrize(("attention", "mlp", "block", "options", "expected"), COUNTS)
def test_trained_weights(attention: Any, mlp: Any, block: Any, options: dict[str, Any], expected: int) -> None:
    given = {"attention": attention, "mlp": mlp, "block": block, **options}
    assert trained("vit_base_patch16_224", "u_tuning", **given) == expected


def reads(block: Any, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: bool = True) -> torch.Tensor:
    """What the queries W_q x + b_q of a plain block read of m keys and values, head by head, behind W_o."""
    attn = block.attn
    q = x @ attn.qkv.weight[:D].T + attn.qkv.bias[:D]
    parts = []
    for h in range(HEADS):
        columns = slice(h * D // HEADS, (h + 1) * D // HEADS)
        exponentials = (q[..., columns] @ keys[:, columns].T / math.sqrt(D / HEADS)).exp()
        parts.append(exponentials / exponentials.sum(dim=-1, keepdim=True) @ values[:, columns])
    joined = torch.cat(parts, dim=-1)
    return joined @ attn.proj.weight.T if out else joined


def projected(block: Any, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of prompts behind the block's first norm."""
    rows = linear(block.attn.qkv, norm(block.norm1, prompts))
    return rows[:, D : 2 * D], rows[:, 2 * D :]


def branch(block: Any, site: Any, kind: str, x: torch.Tensor) -> torch.Tensor:
    tuner = site.tuner
    if kind == "adapter":
        return linear(tuner.up, gelu(linear(tuner.down, x)))
    keys, values = (tuner.keys, tuner.values) if kind == "prefix" else projected(block, tuner.prompts)
    return reads(block, x, keys, values)


@pytest.mark.parametrize("anatomy", ["vit", "dinov2"])
@pytest.mark.parametrize(
    ("attention", "mlp", "block"),
    [
        ("prefix", "adapter", None),
        ("prompt", "prefix", "adapter"),
        ("adapter", "prompt", "prefix"),
        (None, None, "prompt"),
    ],
)
@torch.no_grad()
def test_branches_beside_every_operation(anatomy: str, attention: Any, mlp: Any, block: Any) -> None:
    chosen = {ATTENTION: attention, MLP: mlp, BLOCK: block}
    model, manager, sites = attached(anatomy, "u_tuning", attention=attention, mlp=mlp, block=block, scale=0.7)
    assert sites.keys() == {(kind, i) for kind, tuner in chosen.items() if tuner for i in range(2)}
    entries: dict[int, torch.Tensor] = {}

    def added(kind: str, x: torch.Tensor, i: int) -> torch.Tensor | float:
        tuner = chosen[kind]
        return 0.7 * branch(model.blocks[i], sites[kind, i], tuner, x) if tuner else 0.0

    plain = NaiveViT(
        model,
        tokens=lambda x, i: entries.setdefault(i, x),
        attention_branch=lambda y, x, u, i: y + added(ATTENTION, u, i),
        mlp_branch=lambda y, x, u, i: y + added(MLP, u, i),
        output=lambda x, i: x + added(BLOCK, entries[i], i),
    )
    assert_close(tokens(manager, X), plain(X))


@torch.no_grad()
def test_without_the_frozen_projection_behind_it() -> None:
    model, manager, sites = attached("vit", "u_tuning", mlp=None, out_proj=False)

    def change(y: torch.Tensor, x: torch.Tensor, u: torch.Tensor, i: int) -> torch.Tensor:
        tuner = sites[ATTENTION, i].tuner
        return y + reads(model.blocks[i], u, tuner.keys, tuner.values, out=False)

    assert_close(tokens(manager, X), NaiveViT(model, attention_branch=change)(X))


@torch.no_grad()
def test_prefix_tuning_is_the_gated_sum_of_attention_and_the_branch() -> None:
    """(1 - l) Attn(q, K, V) + l T(x) with l the prefix's share of both softmax sums, of every query and head."""
    model, _, sites = attached("vit", "u_tuning", mlp=None, out_proj=False)
    tuner, block = sites[ATTENTION, 0].tuner, model.blocks[0]
    other: Any = tiny_backbone("vit").double()
    manager = mtpeft.attach(other, "prefix_tuning", num_tokens=10)
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.methods[0].weights.bank("birds")
    prefix = bank.sites[next(s.key for s in manager.methods[0].selected if s.block == 0)]
    prefix.keys.copy_(tuner.keys)
    prefix.values.copy_(tuner.values)
    seen: list[torch.Tensor] = []
    handle = other.blocks[0].attn.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    manager(X, "birds")
    handle.remove()

    u = norm(block.norm1, NaiveViT(model).embed(X))
    q, k, v = linear(block.attn.qkv, u).chunk(3, dim=-1)
    expected = []
    for h in range(HEADS):
        columns = slice(h * D // HEADS, (h + 1) * D // HEADS)
        own = (q[..., columns] @ k[..., columns].transpose(1, 2) / math.sqrt(D / HEADS)).exp()
        extra = (q[..., columns] @ tuner.keys[:, columns].T / math.sqrt(D / HEADS)).exp().sum(dim=-1, keepdim=True)
        attended, total = own / own.sum(dim=-1, keepdim=True) @ v[..., columns], own.sum(dim=-1, keepdim=True) + extra
        share = extra / total
        expected.append((1 - share) * attended + share * tuner(u)[..., columns])
    assert_close(seen[0], torch.cat(expected, dim=-1))


@torch.no_grad()
def test_the_projections_of_a_branch_stay_frozen_under_other_methods() -> None:
    """LoRA on q, v and proj and a trained norm change what the block does, not what the branch reads by."""
    model: Any = tiny_backbone("vit").double()
    backbone: Any = tiny_backbone("vit").double()
    methods = [{"name": "u_tuning", "attention": "prompt", "mlp": None}, {"name": "lora", "sites": ["q", "v", "proj"]}]
    manager = mtpeft.attach(backbone, [*methods, {"name": "ln_tune", "sites": ["norm1"]}])
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    bank: Any = manager.methods[0].weights.bank("birds")
    tuner = bank.sites[next(s.key for s in manager.methods[0].selected if s.block == 1)].tuner
    u = torch.randn(2, 5, D, dtype=torch.float64)
    assert_close(tuner(u), reads(model.blocks[1], u, *projected(model.blocks[1], tuner.prompts)))


def test_weights_start_as_in_the_authors_modules() -> None:
    torch.manual_seed(0)
    manager = mtpeft.attach(tiny_backbone("vit"), "u_tuning", attention="prefix", mlp="adapter", block="prompt")
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.methods[0].weights.bank("birds")
    for site in manager.methods[0].selected:
        tuner = bank.sites[site.key].tuner
        if site.kind == MLP:
            assert 0 < tuner.down.bias.abs().max() < 1e-5 and 0 < tuner.up.bias.abs().max() < 1e-5
            limit = math.sqrt(6 / (D + 10))
            slots = [tuner.down.weight, tuner.up.weight]
        else:
            limit = math.sqrt(6 / (10 * D + D))
            slots = [tuner.keys, tuner.values] if site.kind == ATTENTION else [tuner.prompts]
        for tensor in slots:
            assert 0.9 * limit < tensor.abs().max() <= limit


def test_from_zero_the_model_is_its_own_and_learns() -> None:
    for options in ({"learnable_scale": True}, {"attention": "prompt", "mlp": "prompt", "block": "adapter"}):
        backbone: Any = tiny_backbone("vit")
        with torch.no_grad():
            before = backbone.forward_features(images(2))
        manager = mtpeft.attach(backbone, "u_tuning", zero_init=True, **options)
        manager.add_task("birds", num_classes=3)
        torch.testing.assert_close(backbone.forward_features(images(2)), before)
        manager(images(2), "birds").square().sum().backward()
        own = [p for n, p in manager.trainable_parameters("birds") if "sites." in n]
        moved = {tuple(p.shape) for p in own if p.grad is not None and p.grad.any()}
        assert (() in moved) if "attention" in options else ((10, D) in moved)


def test_a_moving_average_reads_by_the_backbones_own_projections() -> None:
    """The copy of the weights that `averaged` keeps is of the weights alone."""
    manager = mtpeft.attach(tiny_backbone("vit"), "u_tuning", sharing="averaged")
    source: Any = manager.methods[0].weights
    for site in manager.methods[0].selected:
        if site.kind == ATTENTION:
            trained, average = (bank.sites[site.key].tuner for bank in source.banks())
            assert trained is not average and trained.site is average.site is site


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("vit", {"attention": "lora"}, "attention is 'lora', expected"),
    ("vit", {"num_tokens": 0}, "num_tokens is 0, expected"),
    ("vit", {"attention": None, "mlp": None}, "it would train nothing"),
    ("vit", {"sites": ("proj",)}, "it sits beside attention, the MLP or the block: .* not 'proj'"),
]


@pytest.mark.parametrize(("anatomy", "options", "message"), REFUSED)
def test_refusals(anatomy: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mtpeft.attach(tiny_backbone(anatomy), "u_tuning", **options)


def test_prefixes_need_one_attention_in_a_block() -> None:
    parallel = timm.models.vision_transformer.VisionTransformer(
        img_size=64,
        embed_dim=D,
        depth=1,
        num_heads=3,
        num_classes=0,
        block_fn=timm.models.vision_transformer.ParallelThingsBlock,
    )
    with pytest.raises(ConfigError, match=r"u_tuning.*the projections q, k, v, proj of one attention in every block"):
        mtpeft.attach(parallel, "u_tuning")
    adapters = mtpeft.attach(parallel, "u_tuning", attention="adapter")
    assert len(adapters.methods[0].selected) == 4
