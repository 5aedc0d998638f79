"""Rows keep the query that weights are chosen by: the same bits as from images, and no pass of the plain backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mtpeft
from mtpeft.manager.rows import take_rows
from mtpeft.testing.backbones import IMAGE_SIZE, tiny_backbone

POOL = {"name": "pool", "size": 4, "top_k": 2, "start": "uniform"}
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("vit", {"name": "vpt_shallow", "num_tokens": 2, "pool_prompts": "alone"}, "the image, the query"),
    ("vit", {"name": "prefix_tuning", "num_tokens": 2, "blocks": [-1]}, "leaves block 0, the query"),
    ("mae", {"name": "lora", "blocks": [-1]}, "leaves block 0, the query"),
    ("vit", {"name": "lst"}, "the query"),
    ("swin", {"name": "lora"}, "the image, the query"),
    ("convnext", {"name": "adaptformer", "blocks": [-1]}, "the query"),
    ("vit", {"name": "vp", "prompt_size": 2}, "the image, the query"),
]


def images(number: int = 3) -> torch.Tensor:
    return torch.randn(number, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("anatomy", "method", "words"), CASES)
def test_rows_keep_the_query(anatomy: str, method: dict[str, Any], words: str) -> None:
    torch.manual_seed(1)
    manager = mtpeft.attach(tiny_backbone(anatomy), method, sharing=POOL)
    manager.add_task("a", num_classes=3)
    with torch.no_grad():
        for _, parameter in manager.trainable_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    part = take_rows(manager)
    assert words in part.words
    x = images()
    rows, found = part.rows(x), []
    passes: list[Any] = []
    hook = manager.backbone.get_submodule(manager.anatomy.blocks[0]).register_forward_pre_hook(
        lambda *_: passes.append(1)
    )
    for given in (x, rows):
        manager.train().zero_grad()
        passes.clear()
        torch.manual_seed(3)  # dropout
        output = manager(given, "a")
        (output.square().sum() + manager.penalty()).backward()
        gradients = {n: p.grad.clone() for n, p in manager.trainable_parameters() if p.grad is not None}
        found.append((output, manager.penalty(), gradients, len(passes)))
    hook.remove()
    (one, loss, own, twice), (two, other, theirs, once) = found
    assert torch.equal(one, two) and torch.equal(loss, other)
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    assert (twice, once) == (2, 1)


def test_compiled_and_filled_batches_ask_for_their_own_images_alone() -> None:
    """A batch smaller than the graph's is filled up: losses and choices are those of the images that are there."""
    from mtpeft.manager.compiled import Compiled

    torch.manual_seed(1)
    manager = mtpeft.attach(
        tiny_backbone("vit"), {"name": "vpt_shallow", "num_tokens": 2}, sharing={**POOL, "frequency": True}
    )
    manager.add_task("a", num_classes=3)
    manager.train()
    x = images(3)
    plain, loss = manager(x, "a"), manager.penalty()
    counts: Any = manager.methods[0].weights.own_modules("a")[0]
    before = counts.counts.clone()
    manager.runtime.compiled = Compiled(manager.backbone, 4, lambda text: None)
    manager.runtime.compiled.graph = manager.runtime.compiled.plain  # filling alone is looked at here
    filled, other = manager(x, "a"), manager.penalty()
    torch.testing.assert_close(filled, plain)
    torch.testing.assert_close(other, loss)
    assert torch.equal(counts.counts, 2 * before)
