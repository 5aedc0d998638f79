"""PVT and T2T-ViT: the papers' maths written out, in float64, timm's entry points, and what methods find there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F

import mtpeft
from mtpeft.backbones import pvt, t2t_vit
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError, DataError
from mtpeft.hooks.runtime import Selection
from mtpeft.manager.features import extract
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb

X = images(2, torch.float64)


def normed(x: torch.Tensor, layer: Any, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * layer.weight + layer.bias


def patches(x: torch.Tensor, side: int) -> torch.Tensor:
    """A map (B, C, H, W) -> its patches (B, H / side, W / side, C, side, side)."""
    return x.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)


def convolved(x: torch.Tensor, layer: Any) -> torch.Tensor:
    """Of patches side by side: (B, C, H, W) -> (B, H', W', D)."""
    return torch.einsum("bhwcij,dcij->bhwd", patches(x, layer.kernel_size[0]), layer.weight) + layer.bias


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
    """(B, N, C) with keys and values (B, M, C), head by head."""
    outputs = []
    for query, key, value in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        weights = (query @ key.mT * scale).exp()
        outputs.append(weights / weights.sum(-1, keepdim=True) @ value)
    return torch.cat(outputs, dim=-1)


def apply(x: torch.Tensor, layer: Any) -> torch.Tensor:
    return x @ layer.weight.mT + (0 if layer.bias is None else layer.bias)


def two_layers(x: torch.Tensor, first: Any, second: Any) -> torch.Tensor:
    hidden = apply(x, first)
    return apply(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2, second)


def naive_pvt(
    model: Any, x: torch.Tensor, beside: Callable[[int, torch.Tensor], Any] = lambda block, x: 0.0
) -> Iterator[torch.Tensor]:
    """What leaves each stage, (B, N, C). `beside(block, stream)` is added to a block's MLP branch."""
    index = 0
    for s, heads in enumerate((1, 2, 3, 6), 1):
        embed, positions = getattr(model, f"patch_embed{s}"), getattr(model, f"pos_embed{s}")
        tokens = normed(convolved(x, embed.proj), embed.norm, 1e-5)
        rows, columns = tokens.shape[1:3]
        tokens = tokens.flatten(1, 2)
        if s == 4:
            tokens = torch.cat([model.cls_token.expand(len(x), 1, -1), tokens], 1)
        tokens = tokens + positions
        for block in getattr(model, f"block{s}"):
            seen = normed(tokens, block.norm1, 1e-6)
            reduced, ratio = seen, (8, 4, 2, 1)[s - 1]
            if ratio > 1:
                grid = seen.mT.reshape(len(x), -1, rows, columns)
                reduced = normed(convolved(grid, block.attn.sr).flatten(1, 2), block.attn.norm, 1e-5)
            k, v = apply(reduced, block.attn.kv).chunk(2, dim=-1)
            scale = (tokens.shape[-1] // heads) ** -0.5
            attended = softmax_attention(apply(seen, block.attn.q), k, v, heads, scale)
            tokens = tokens + apply(attended, block.attn.proj)
            branch = two_layers(normed(tokens, block.norm2, 1e-6), block.mlp.fc1, block.mlp.fc2)
            tokens, index = tokens + branch + beside(index, tokens), index + 1
        yield tokens
        x = tokens.mT.reshape(len(x), -1, rows, columns) if s < 4 else x


def windows(x: torch.Tensor, side: int, stride: int, padding: int) -> tuple[torch.Tensor, int, int]:
    """Windows of a map, one by one: (B, N, C side side), and how many rows and columns of them there are."""
    x = F.pad(x, (padding,) * 4)
    rows, columns = ((size - side) // stride + 1 for size in x.shape[2:])
    cut = [
        x[:, :, i * stride : i * stride + side, j * stride : j * stride + side].reshape(len(x), -1)
        for i in range(rows)
        for j in range(columns)
    ]
    return torch.stack(cut, 1), rows, columns


def performer(x: torch.Tensor, step: Any) -> torch.Tensor:
    """One token after another: the kernel of a query and a key is the product of their positive random features."""
    k, q, v = apply(normed(x, step.norm1, 1e-5), step.kqv).chunk(3, dim=-1)

    def phi(t: torch.Tensor) -> torch.Tensor:
        m = len(step.w)
        return torch.stack([(t @ row - (t * t).sum(-1) / 2).exp() for row in step.w], dim=-1) / math.sqrt(m)

    kernel = phi(q) @ phi(k).mT
    attended = (kernel / (kernel.sum(-1, keepdim=True) + 1e-8)) @ v
    x = v + apply(attended, step.proj)
    return x + two_layers(normed(x, step.norm2, 1e-5), step.mlp[0], step.mlp[2])


def transformer(x: torch.Tensor, step: Any) -> torch.Tensor:
    q, k, v = apply(normed(x, step.norm1, 1e-5), step.attn.qkv).chunk(3, dim=-1)
    x = v + apply(softmax_attention(q, k, v, 1, x.shape[-1] ** -0.5), step.attn.proj)
    return x + two_layers(normed(x, step.norm2, 1e-5), step.mlp.fc1, step.mlp.fc2)


def naive_t2t(model: Any, x: torch.Tensor, step: Any = performer) -> Iterator[torch.Tensor]:
    """What leaves each block, (B, 1 + N, C)."""
    t2t = model.tokens_to_token
    tokens, rows, columns = windows(x, 7, 4, 2)
    for attention in (t2t.attention1, t2t.attention2):
        x = step(tokens, attention).mT.reshape(len(x), -1, rows, columns)
        tokens, rows, columns = windows(x, 3, 2, 1)
    tokens = apply(tokens, t2t.project)
    tokens = torch.cat([model.cls_token.expand(len(x), 1, -1), tokens], 1)
    dim = tokens.shape[-1]
    rates = torch.tensor([10_000 ** (-(j - j % 2) / dim) for j in range(dim)], dtype=torch.float64)
    for place in range(tokens.shape[1]):
        angles = place * rates
        even = torch.arange(dim) % 2 == 0
        tokens[:, place] = tokens[:, place] + torch.where(even, angles.sin(), angles.cos()).float()
    for block in model.blocks:
        q, k, v = apply(normed(tokens, block.norm1, 1e-5), block.attn.qkv).chunk(3, dim=-1)
        tokens = tokens + apply(softmax_attention(q, k, v, 3, (dim // 3) ** -0.5), block.attn.proj)
        tokens = tokens + two_layers(normed(tokens, block.norm2, 1e-5), block.mlp.fc1, block.mlp.fc2)
        yield tokens


def transformer_steps() -> Any:
    torch.manual_seed(0)
    small = {"embed_dim": 48, "depth": 2, "num_heads": 3, "token_dim": 8, "num_classes": 0}
    model = timm.create_model("t2t_vit_t_14", img_size=64, **small).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


MODELS: dict[str, tuple[Callable[[], Any], Callable[..., Iterator[torch.Tensor]], float]] = {
    "pvt": (lambda: tiny_backbone("pvt"), naive_pvt, 1e-6),
    "performer": (lambda: tiny_backbone("t2t_vit"), naive_t2t, 1e-5),
    "transformer": (transformer_steps, lambda model, x: naive_t2t(model, x, transformer), 1e-5),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_the_forward_is_the_papers(kind: str, fused: bool) -> None:
    make, naive, eps = MODELS[kind]
    model = make().double()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    expected = list(naive(model, X))
    final = normed(expected[-1], model.norm, eps)
    torch.testing.assert_close(model.forward_features(X), final, atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(model(X), final[:, 0], atol=1e-9, rtol=1e-8)
    model.reset_classifier(3, "avg")
    assert model.get_classifier() is model.head and model.head.weight.dtype == torch.float64
    torch.testing.assert_close(model(X), apply(final[:, 1:].mean(1), model.head), atol=1e-9, rtol=1e-8)
    tokens, maps = model.forward_intermediates(X)
    torch.testing.assert_close(tokens, final, atol=1e-9, rtol=1e-8)
    for found, own in zip(maps, expected, strict=True):
        rows, columns = found.shape[2:]
        torch.testing.assert_close(found.flatten(2).mT, own[:, -rows * columns :], atol=1e-9, rtol=1e-8)


# timm's entry points ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("pvt_tiny", [(64, 16), (128, 8), (320, 4), (512, 2)]), ("t2t_vit_7", [(256, 4), (256, 4), (256, 4)])],
)
def test_features_only(name: str, sizes: list[tuple[int, int]]) -> None:
    pyramid = timm.create_model(name, features_only=True, img_size=64).eval()
    assert [tuple(m.shape[1:3]) for m in pyramid(X.float())] == sizes
    assert pyramid.feature_info.channels() == [width for width, _ in sizes]
    assert pyramid.feature_info.reduction() == [64 // side for _, side in sizes]
    first = timm.create_model(name, features_only=True, img_size=64, out_indices=(0, 1)).eval()
    assert [tuple(m.shape[1:3]) for m in first(X.float())] == sizes[:2]
    assert sum(p.numel() for p in first.parameters()) < sum(p.numel() for p in pyramid.parameters())


@pytest.mark.parametrize("anatomy", ["pvt", "t2t_vit"])
def test_intermediates_normed_stopped_early_and_with_prefixes(anatomy: str) -> None:
    model: Any = tiny_backbone(anatomy)
    with torch.no_grad():
        x = X.float()
        final = model.forward_features(x)
        (last,) = model.forward_intermediates(x, indices=[-1], norm=True, intermediates_only=True)
        torch.testing.assert_close(last.flatten(2).mT, final[:, 1:])
        whole = model.forward_intermediates(x, intermediates_only=True)
        (first,) = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
        assert torch.equal(first, whole[0])
        with pytest.raises(ValueError, match="output_fmt='NHWC'"):
            model.forward_intermediates(x, output_fmt="NHWC")
        if anatomy == "t2t_vit":
            ((map_, prefix), *_) = model.forward_intermediates(
                x, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
            )
            assert map_.shape == (2, 16, 48) and prefix.shape == (2, 1, 48)
            torch.testing.assert_close(map_, whole[0].flatten(2).mT)


@pytest.mark.parametrize("anatomy", ["pvt", "t2t_vit"])
def test_checkpointing_changes_no_gradient(anatomy: str) -> None:
    found = []
    for enable in (False, True):
        model: Any = tiny_backbone(anatomy).double()
        model.set_grad_checkpointing(enable)
        runs = []
        block = next(m for path, m in model.named_modules() if path in ("block1.0", "blocks.0"))
        block.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        model(X).square().sum().backward()
        assert len(runs) == 1 + enable
        found.append([p.grad for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_positions_of_pvt_are_resampled_bilinearly() -> None:
    """Where the map doubles, a place is 3/4 its own position and 1/4 that of the neighbour, along each side."""
    model: Any = tiny_backbone("pvt").double()
    own = model.pos_embed2.mT.reshape(16, 8, 8)
    found = pvt.resampled(model.pos_embed2, (8, 8), (16, 16)).mT.reshape(16, 16, 16)
    corner = own[:, 2:4, 4:6]
    mixed = torch.tensor([0.75, 0.25], dtype=torch.float64)
    torch.testing.assert_close(found[:, 5, 9], torch.einsum("cij,i,j->c", corner, mixed, mixed))
    last = pvt.resampled(model.pos_embed4, (2, 2), (3, 5))
    assert torch.equal(last[:, 0], model.pos_embed4[:, 0]) and last.shape == (1, 16, 48)
    assert pvt.resampled(model.pos_embed4, (2, 2), (2, 2)) is model.pos_embed4
    assert model(torch.zeros(1, 3, 50, 70, dtype=torch.float64)).shape == (1, 48)


@torch.no_grad()
def test_t2t_takes_its_own_size_unless_told_otherwise() -> None:
    small: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 3, "token_dim": 8, "num_classes": 0}
    fixed = timm.create_model("t2t_vit_7", img_size=64, **small)
    with pytest.raises(ValueError, match="images are 32 x 96, the model is for"):
        fixed(torch.zeros(1, 3, 32, 96))
    torch.manual_seed(0)
    dynamic = timm.create_model("t2t_vit_7", img_size=64, dynamic_img_size=True, **small).eval()
    manager = mtpeft.attach(dynamic, "convpass", bottleneck_dim=4)
    manager.add_task("depth", head="stage_linear", channels=1)
    manager.add_task("birds", num_classes=3)
    assert manager(torch.zeros(1, 3, 32, 96), "depth").shape[-2:] == (32, 96)
    with pytest.raises(DataError, match="images are 50 x 70; the backbone takes multiples of 16 x 16"):
        manager(torch.zeros(1, 3, 50, 70), "birds")


@torch.no_grad()
def test_performers_keep_their_exponentials_out_of_half_precision() -> None:
    """exp(w^T x - |x|^2 / 2) reaches exp(|w|^2 / 2), beyond what float16 holds; autocast leaves it in float32."""
    torch.manual_seed(0)
    step = t2t_vit.TokenPerformer(147, 64).eval()
    k = step.get_buffer("w")[:1].expand(2, 5, -1)
    v = torch.randn(2, 5, 64)
    assert k[0, 0].square().sum() / 2 > math.log(torch.finfo(torch.float16).max)
    expected = step._attend(k, k, v)
    with torch.autocast("cpu", dtype=torch.float16):
        found = step._attend(k, k, v)
    assert torch.equal(found, expected) and torch.isfinite(found).all()
    half = step._attend(k.half(), k.half(), v.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, atol=2e-2, rtol=2e-2)


def test_positions_and_random_features_stay_as_they_are_in_full_fine_tuning() -> None:
    manager = mtpeft.attach(tiny_backbone("t2t_vit"), "full")
    trained = {name for name, p in manager.backbone.named_parameters() if p.requires_grad}
    assert "cls_token" in trained and "tokens_to_token.attention1.kqv.weight" in trained
    w = manager.backbone.get_buffer("tokens_to_token.attention1.w")
    torch.testing.assert_close(w @ w.T, len(w) * torch.eye(len(w)))  # orthogonal, of the length that random ones have
    assert {"pos_embed", "tokens_to_token.attention1.w"} <= {name for name, _ in manager.backbone.named_buffers()}


# anatomies ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_maps_of_pvt_are_four_scales_without_the_class_token() -> None:
    backbone: Any = tiny_backbone("pvt").double()
    expected = backbone.forward_intermediates(X, norm=True, intermediates_only=True)
    manager = mtpeft.attach(backbone, "linear_probe")
    manager.add_task("depth", head="stage_linear", channels=1)
    found = extract(manager, X, Selection(("depth",)), {"stages", "map"})
    for map_, own in zip(found["stages"], expected, strict=True):
        torch.testing.assert_close(map_, own, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(found["map"], expected[-1], atol=1e-12, rtol=1e-9)
    assert [(stage.dim, stage.stride) for stage in manager.anatomy.stages] == [(8, 4), (16, 8), (24, 16), (48, 32)]
    assert manager(torch.zeros(2, 3, 128, 128, dtype=torch.float64), "depth").shape == (2, 1, 128, 128)


def test_the_class_token_of_pvt_is_there_in_the_last_stage_alone() -> None:
    anatomy = Anatomy(tiny_backbone("pvt"))
    sites = anatomy.select(["parallel_mlp"])
    assert [site.prefix_tokens for site in sites] == [0, 0, 0, 1, 1]
    assert [site.grid for site in sites] == [(16, 16), (8, 8), (4, 4), (2, 2), (2, 2)]
    before, patches_ = sites[-1].split_prefix(torch.zeros(2, 5, 48))
    assert before.shape == (2, 1, 48) and patches_.shape == (2, 48, 2, 2)


@torch.no_grad()
def test_adapters_beside_the_mlps_of_pvt() -> None:
    backbone: Any = tiny_backbone("pvt").double()
    manager = mtpeft.attach(backbone, "adaptformer", bottleneck_dim=4)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    bank: Any = manager.eval().attachments[0].weights.bank("birds").sites  # type: ignore[union-attr, operator]
    of = {site.block: bank[site.key].adapter for site in manager.methods[0].selected}
    assert len(of) == 5

    def beside(block: int, x: torch.Tensor) -> torch.Tensor:
        return 0.1 * apply(F.relu(apply(x, of[block].down)), of[block].up)

    *_, last = naive_pvt(backbone, X, beside)
    expected = normed(last, backbone.norm, 1e-6)[:, 0]
    torch.testing.assert_close(manager.features(X, "birds"), expected, atol=1e-10, rtol=1e-8)


def test_layers_that_make_tokens_are_sites_of_their_own() -> None:
    """LoRA on q, v or fc1 is on the blocks; SSF, BitFit and LN-Tune reach every layer."""
    for backbone in (tiny_backbone("t2t_vit"), transformer_steps()):
        anatomy = Anatomy(backbone)
        every = {site.path for site in anatomy.select(["operations"])}
        assert {"tokens_to_token.attention1.norm1", "tokens_to_token.project"} <= every
        for kind in ("q", "v", "proj", "norm1", "norm2", "fc1", "fc2"):
            assert [site.block for site in anatomy.select([kind])] == [0, 1], kind
        (patches_,) = anatomy.select(["patch_embed"])
        assert patches_.path == "tokens_to_token.project" and patches_.matrix and anatomy.patch_size == 16


def test_what_needs_one_flat_sequence_is_refused_on_pvt() -> None:
    for method in ("lst", "vpt_deep", "vqt"):
        with pytest.raises(
            ConfigError, match=f"'{method}' cannot be attached to Pyramid.*it needs one flat token sequence"
        ):
            mtpeft.attach(tiny_backbone("pvt"), method)
    with pytest.raises(
        ConfigError, match="'evp_l' cannot be attached to T2TViT: its high frequencies are those of the"
    ):
        mtpeft.attach(tiny_backbone("t2t_vit"), "evp_l")
