"""DTL and DTL+, written out in plain tensor algebra."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from naive import NaiveViT, T, assert_close, attached, tokens
from naive_maps import sigmoid
from timm.models.vision_transformer import VisionTransformer

import mtpeft
from mtpeft.methods.side.dtl import ConvolvedTheta
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb

X = images(2, torch.float64)


def naive_dtl(
    model: Any, sites: dict[Any, Any], beta: float, start: int, change: Callable[[T], T] = lambda h: h
) -> NaiveViT:
    h: list[T] = []

    def read(x: T, i: int) -> T:
        site = sites["block", i]
        new = x @ site.down.weight.T @ site.up.weight.T
        h.append(new if not h else h[-1] + new)
        return x

    def add(y: T, i: int) -> T:
        return y + change(h[-1] * sigmoid(beta * h[-1])) if i >= start else y

    return NaiveViT(model, tokens=read, output=add)


@pytest.mark.parametrize(("anatomy", "start"), [("vit", 0), ("vit", 1), ("dinov2", None)])
@torch.no_grad()
def test_dtl_adds_its_state_to_the_late_blocks(anatomy: str, start: int | None) -> None:
    model, manager, sites = attached(anatomy, "dtl", rank=3, beta=7.0, feedback_from=start)
    assert_close(tokens(manager, X), naive_dtl(model, sites, 7.0, start or 0)(X))


@pytest.mark.parametrize("size", [3, 4])
@torch.no_grad()
def test_dtl_plus_convolves_the_patches_with_one_kernel_for_all_blocks(size: int) -> None:
    model, manager, sites = attached("dinov2", "dtl_plus", feedback_from=0, kernel_size=size)
    bank: Any = manager.attachments[0].weights.bank("birds")
    (stage,) = bank.model.stages.values()
    layer = stage

    def change(z: T) -> T:
        patches = z[:, 5:].transpose(1, 2).unflatten(2, (4, 4))
        before = (size - 1) // 2
        framed = torch.zeros(*patches.shape[:2], 4 + size - 1, 4 + size - 1, dtype=z.dtype)
        framed[:, :, before : before + 4, before : before + 4] = patches
        out = torch.zeros_like(patches)
        for dy in range(size):
            for dx in range(size):
                out += framed[:, :, dy : dy + 4, dx : dx + 4] * layer.weight[:, :, dy, dx][:, 0, None, None]
        return torch.cat([z[:, :5], out.flatten(2).transpose(1, 2)], dim=1)

    assert_close(tokens(manager, X), naive_dtl(model, sites, 100.0, 0, change)(X))


def test_dtl_starts_as_the_paper_has_it() -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "dtl_plus")
    manager.add_task("birds", num_classes=3)
    bank: Any = manager.attachments[0].weights.bank("birds")
    for site in bank.sites.values():
        assert not site.up.weight.any() and 0 < site.down.weight.abs().max() <= 1 / math.sqrt(48)
    images(2)
    manager(images(2), "birds").sum().backward()
    assert all(site.up.weight.grad.any() for site in bank.sites.values())  # theta'(0) is a half


def test_dtl_s_early_blocks_have_no_gradient_and_keep_no_graph() -> None:
    backbone: Any = VisionTransformer(img_size=64, embed_dim=48, depth=4, num_heads=3, num_classes=0)
    manager = mtpeft.attach(backbone, "dtl", feedback_from=2)
    manager.add_task("birds", num_classes=3)
    seen: list[tuple[bool, T]] = []
    for block in backbone.blocks:
        block.register_forward_hook(lambda m, args, out: seen.append((args[0].requires_grad, out.detach())))
    perturb(manager)
    manager(images(2), "birds")
    assert [flows for flows, _ in seen] == [False, False, False, True]
    manager.detach()
    with torch.no_grad():
        x = backbone._pos_embed(backbone.patch_embed(images(2)))
        for block, (_, output) in list(zip(backbone.blocks, list(seen), strict=True))[:2]:
            x = block(x)
            assert torch.equal(x, output)


@torch.no_grad()
def test_dtl_on_a_pyramid_begins_anew_in_each_stage_and_leaves_out_stages_without_feedback() -> None:
    backbone: Any = tiny_backbone("swin").double()
    manager = mtpeft.attach(backbone, "dtl", feedback_from=1)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    sites = [manager.attachments[0].weights.bank("birds").sites[s.key] for s in manager.attachments[0].selected]
    assert len(sites) == 4
    plain: Any = tiny_backbone("swin").double()
    x, h, number = plain.patch_embed(X), None, 0
    for stage in plain.layers:
        x, h = stage.downsample(x), None
        for block in stage.blocks:
            new = x @ sites[number].down.weight.T @ sites[number].up.weight.T
            h = new if h is None else h + new
            x = block(x) + (h * sigmoid(100 * h) if number >= 1 else 0)
            number += 1
    assert_close(tokens(manager, X), plain.norm(x))
    later = mtpeft.attach(tiny_backbone("swin"), "dtl_plus", feedback_from=-1)
    assert [site.block for site in later.attachments[0].selected] == [2, 3]


@pytest.mark.parametrize("method", ["dtl", "lst"])
def test_half_of_lora_s_activations_at_most(method: str) -> None:
    def kept(name: str) -> int:
        backbone = VisionTransformer(img_size=64, patch_size=8, embed_dim=96, depth=12, num_heads=2, num_classes=0)
        manager = mtpeft.attach(backbone, name)
        manager.add_task("birds", num_classes=3)
        return manager.memory("birds").activations

    assert kept(method) <= 0.5 * kept("lora")


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_gradient_of_the_convolved_state(size: int) -> None:
    h = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, size, size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h, w: ConvolvedTheta.apply(h, w, 3.0), (h, weight))
