"""IDPT: a prompt made of an image's own patches by graph convolutions, and what heads read of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import NaiveViT, assert_close, attached
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.methods.prompt.idpt import nearest
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

X = images(2, torch.float64)


@pytest.mark.parametrize(("options", "expected"), [({}, 5_314_560), ({"num_layers": 1}, 3 * 768**2 + 4 * 768)])
def test_counts(vit_b: nn.Module, options: dict[str, Any], expected: int) -> None:
    manager = mtpeft.attach(vit_b, "idpt", **options)
    try:
        assert manager.feature_dim == 3 * 768
        manager.add_task("birds", num_classes=15)
        assert manager.num_trainable("birds", heads=False) == expected
        assert [site.block for site in manager.attachments[0].selected] == [11]  # type: ignore[union-attr]
    finally:
        manager.detach()


def batch_norm(layer: Any, rows: torch.Tensor, training: bool) -> torch.Tensor:
    """Rows (n, d) by their own mean and variance, or by those that were kept."""
    mean, variance = layer.running_mean, layer.running_var
    if training:
        mean, variance = rows.mean(0), rows.var(0, unbiased=False)
    return (rows - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias


def leaky(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def naive_prompt(site: Any, patches: torch.Tensor, k: int, training: bool = False) -> torch.Tensor:
    """Patches (B, N, d) -> (B, d), edge by edge."""
    batch, number, d = patches.shape
    h, levels = patches, []
    for conv in site.convs:
        edges = []
        for image in h:
            for i in range(number):
                order = sorted(range(number), key=lambda j: ((image[j] - image[i]) ** 2).sum().item())
                edges += [torch.cat([image[j] - image[i], image[i]]) for j in order[:k]]
        normed = leaky(batch_norm(conv.norm, torch.stack(edges) @ conv.linear.weight.T, training))
        h = torch.stack([normed[n : n + k].max(0).values for n in range(0, len(edges), k)]).view(batch, number, d)
        levels.append(h)
    fused = torch.cat(levels, -1).flatten(0, 1) @ site.fuse.weight.T
    return leaky(batch_norm(site.norm, fused, training)).view(batch, number, d).max(1).values


def with_kept_statistics(site: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    for module in site.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean += 0.3 * torch.randn(48, generator=generator).to(module.running_mean)  # type: ignore[operator]
            module.running_var *= 0.5 + torch.rand(48, generator=generator).to(module.running_var)  # type: ignore[operator]
    return site


@torch.no_grad()
@pytest.mark.parametrize(
    ("anatomy", "head_input"), [("vit", "all"), ("dinov2", "all"), ("vit", "prompt"), ("vit", "pooled")]
)
def test_the_last_block_gets_a_prompt_and_heads_read_it(anatomy: str, head_input: str) -> None:
    model, manager, sites = attached(anatomy, "idpt", num_neighbours=5, num_layers=2, head_input=head_input)
    site, start = with_kept_statistics(sites["tokens", 1]), model.num_prefix_tokens

    def insert(x: torch.Tensor, i: int) -> torch.Tensor:
        if i != 1:
            return x
        return torch.cat([x[:, :start], naive_prompt(site, x[:, start:], 5)[:, None], x[:, start:]], dim=1)

    out = NaiveViT(model, tokens=insert)(X)
    parts = {"pooled": [out[:, 0]], "prompt": [out[:, start]]}
    parts["all"] = [out[:, 0], out[:, start], out[:, start + 1 :].max(dim=1).values]
    assert_close(manager.features(X, "birds"), torch.cat(parts[head_input], dim=1))
    assert_close(
        manager.backbone.forward_features(X),  # type: ignore[operator]
        torch.cat([out[:, :start], out[:, start + 1 :]], dim=1),
    )


def test_in_training_batch_norms_see_all_edges_of_the_batch() -> None:
    _, _, sites = attached("vit", "idpt", num_neighbours=3, num_layers=3)
    site = sites["tokens", 1].train()
    tokens = torch.randn(2, 9, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert_close(site(tokens)[:, 0], naive_prompt(site, tokens[:, 1:], 3, training=True))


def test_neighbours_hold_the_point_itself_and_are_all_where_there_are_fewer() -> None:
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [5.5, 0.0]]])
    assert [sorted(row) for row in nearest(points, 2)[0].tolist()] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [sorted(row) for row in nearest(points, 20)[0].tolist()] == [[0, 1, 2, 3]] * 4


def test_the_prompt_is_of_the_image_alone() -> None:
    _, manager, _ = attached("swin", "idpt", num_neighbours=4)
    both = manager.features(X, "birds")
    assert_close(manager.features(X[:1], "birds"), both[:1])
    assert manager.feature_dim == both.shape[1] == 3 * 48


def test_a_prompt_that_no_head_could_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="heads read its prompt from the last block"):
        mtpeft.attach(tiny_backbone("vit"), "idpt", blocks=(0,))
