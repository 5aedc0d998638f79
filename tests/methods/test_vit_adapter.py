"""ViT-Adapter, written out query by query and point by point."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from naive import NaiveViT, T, assert_close, gelu, linear, norm, tokens
from naive_maps import batch_norm, bilinear, conv, enlarged, maximum, relu
from timm.models.vision_transformer import VisionTransformer

import mtpeft
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb


def places(height: int, width: int) -> list[tuple[float, float]]:
    return [((j + 0.5) / width, (i + 0.5) / height) for i in range(height) for j in range(width)]


def deformable(layer: Any, queries: T, grid: list[tuple[float, float]], maps: list[T]) -> T:
    """Queries (Q, d) of one image, maps (H, W, d): query by query, head by head, map by map, point by point."""
    heads, points, levels = layer.num_heads, layer.points, len(maps)
    values = [linear(layer.value, m) for m in maps]
    offsets = linear(layer.offsets, queries).reshape(-1, heads, levels, points, 2)
    scores = linear(layer.weights, queries).reshape(-1, heads, levels * points).exp()
    weights = (scores / scores.sum(-1, keepdim=True)).reshape(-1, heads, levels, points)
    size = values[0].shape[-1] // heads
    out = queries.new_zeros(len(queries), heads * size)
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        for level, value in enumerate(values):
            height, width = value.shape[:2]
            for point in range(points):
                moved = offsets[:, head, level, point]
                x = torch.tensor([g[0] for g in grid]) * width + moved[:, 0] - 0.5
                y = torch.tensor([g[1] for g in grid]) * height + moved[:, 1] - 0.5
                read = bilinear(value[..., columns].permute(2, 0, 1), x, y)
                out[:, columns] += weights[:, head, level, point][:, None] * read.T
    return linear(layer.out, out)


def flat(m: T) -> T:
    return m.flatten(0, 1)


def wide_vit() -> Any:
    """Images of 64 x 96, a class token, four blocks."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=(64, 96), embed_dim=24, depth=4, num_heads=2, num_classes=0)
    for parameter in model.parameters():
        if parameter.ndim <= 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.double().eval()


@pytest.mark.parametrize(("reads", "interactions"), [("each", 4), ("last", 2)])
@torch.no_grad()
def test_vit_adapter_on_an_image_that_is_no_square(reads: str, interactions: int) -> None:
    model, plain = wide_vit(), wide_vit()
    options: dict[str, Any] = {"num_heads": 3, "num_points": 2, "conv_dim": 4, "reads": reads}
    manager = mtpeft.attach(model, "vit_adapter", interactions=interactions, **options)
    manager.add_task("depth", head="stage_linear", channels=2)
    perturb(manager, std=0.2)
    sites: Any = {(s.kind, s.block): manager.attachments[0].weights.bank("depth").sites[s.key].part
                  for s in manager.attachments[0].selected}  # fmt: skip
    manager.eval()
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    prior = sites["pixels", None]

    def step(x: T, layers: Any) -> T:
        return relu(batch_norm(conv(x, layers[0]), layers[1]))

    stem = maximum(step(step(step(image, prior.stem[0]), prior.stem[1]), prior.stem[2]), 3, 2, 1)
    inner, c = stem, []
    for layers, project, level in zip(prior.convs, prior.project, prior.level_embed, strict=True):
        inner = step(inner, layers)
        c.append((conv(inner, project)[0] + level[:, None, None]).permute(1, 2, 0))
    assert [tuple(m.shape[:2]) for m in c] == [(8, 12), (4, 6), (2, 3)]

    naive = NaiveViT(plain)
    x, behind = naive.embed(image), []
    for i in range(4):
        if (injector := sites.get(("entry", i))) is not None:
            values = [norm(injector.norm_c, m) for m in c]
            read = deformable(injector.attention, norm(injector.norm_x, x[0, 1:]), places(4, 6), values)
            x = torch.cat([x[:, :1], x[:, 1:] + injector.gamma * read], dim=1)
        x = naive.block(plain.blocks[i], x, i)
        if (extraction := sites.get(("block", i))) is not None:
            patches = x[0, 1:].unflatten(0, (4, 6))
            assert len(extraction.extractors) == (3 if i == 3 else 1)
            for extractor in extraction.extractors:
                values, moved = [norm(extractor.norm_x, patches)], []
                for m in c:
                    m = m + deformable(
                        extractor.attention, norm(extractor.norm_c, flat(m)), places(*m.shape[:2]), values
                    ).unflatten(0, m.shape[:2])
                    hidden = linear(extractor.ffn.fc1, norm(extractor.norm, m)).permute(2, 0, 1)[None]
                    hidden = gelu(conv(hidden, extractor.ffn.conv)[0].permute(1, 2, 0))
                    moved.append(m + linear(extractor.ffn.fc2, hidden))
                c = moved
            behind.append(patches.permute(2, 0, 1)[None])

    end = sites["scales", None]
    maps = [m.permute(2, 0, 1)[None] for m in c]
    up = torch.einsum("bchw,cdij->bdhiwj", maps[0], end.up.weight).flatten(4, 5).flatten(2, 3)
    maps = [up + end.up.bias[:, None, None] + conv(stem, end.project), *maps]
    chosen = [behind[-1]] * 4 if reads == "last" else behind
    expected = [
        batch_norm(m + enlarged(b, *m.shape[2:]), layer) for m, b, layer in zip(maps, chosen, end.norms, strict=True)
    ]
    assert [tuple(m.shape[2:]) for m in expected] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert_close(manager(image, "depth"), manager.head("depth")(expected, (64, 96)))
    assert_close(tokens(manager, image), norm(plain.norm, x))


def test_vit_adapter_starts_at_the_backbone_and_at_points_around_each_cell() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "vit_adapter", num_heads=4)
    manager.add_task("birds", num_classes=3)
    sites: Any = manager.attachments[0].weights.bank("birds").sites
    injector = sites["blocks-0-entry"].part
    assert not injector.gamma.any() and not injector.attention.offsets.weight.any()
    assert not injector.attention.weights.weight.any() and not injector.attention.weights.bias.any()
    first = injector.attention.offsets.bias.view(4, 3, 4, 2)[:, 1]
    ways = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for point in range(4):
        torch.testing.assert_close(first[:, point], (point + 1) * ways, atol=1e-6, rtol=0)
    stem = sites["patch_embed-pixels"].part.stem[1][0].weight
    assert stem.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)


def test_heads_of_several_scales_are_sized_by_the_method() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "vit_adapter")
    manager.add_task("parts", head="hrnet", channels=5)
    assert [(stage.dim, stage.stride) for stage in manager.stages] == [(48, 4), (48, 8), (48, 16), (48, 32)]
    assert not manager.head("parts").plain
    assert manager.eval()(images(2), "parts").shape == (2, 5, 64, 64)
    plain = mtpeft.attach(tiny_backbone("vit"), "lora")
    assert {stage.stride for stage in plain.stages} == {16}
