"""Free Sinewich: kernels written out entry by entry, frequencies, what tasks share; its counts and its refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from naive import T, gelu, linear, norm
from naive_task_prompts import SCALE, TASKS, made, read, stage_ends

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb


def omega(manager: Any, task: str) -> T:
    weights = manager.attachments[0].weights
    clock, prompt = weights.common.model, weights.joined[f"of={task}"]["layers-0-blocks-0-tokens"].prompt[0]
    total = sum(clock.weight[i] * prompt[i].clamp(min=0) for i in range(len(prompt)))
    return clock.scale * (torch.tanh(total) + clock.offset)


def smoothed(kernel: T, sigma: float, axis: int) -> T:
    """Seven taps of a bell along an axis, zeros beyond."""
    bell = [math.exp(-(t**2) / (2 * sigma**2)) for t in range(-3, 4)]
    moved, out = kernel.movedim(axis, 0), torch.zeros_like(kernel.movedim(axis, 0))
    for row in range(len(moved)):
        for tap, height in zip(range(-3, 4), bell, strict=True):
            if 0 <= row + tap < len(moved):
                out[row] += height / sum(bell) * moved[row + tap]
    return out.movedim(0, axis)


def switched(manager: Any, task: str, site: Any, maps: T, sigma: float) -> T:
    """Maps (B, h, w, in) through the task's kernel, place by place."""
    middle, side = site.middle, site.middle.shape[-1]
    a, b = site.update.lora_A, site.update.lora_B
    base = torch.zeros(len(b), a.shape[1], side, side, dtype=a.dtype)
    for u in range(side):
        for v in range(side):
            base[:, :, u, v] = b @ middle[:, :, u, v] @ a
    kernel = torch.sin(omega(manager, task) * base)
    if sigma:
        kernel = smoothed(smoothed(kernel, sigma, 0), sigma, 1)
    count, height, width, _ = maps.shape
    out = maps.new_zeros(count, height, width, len(kernel))
    for i in range(height):
        for j in range(width):
            for u in range(side):
                for v in range(side):
                    row, column = i + u - side // 2, j + v - side // 2
                    if 0 <= row < height and 0 <= column < width:
                        out[:, i, j] += maps[:, row, column] @ kernel[:, :, u, v].T
    return out


def naive(manager: Any, task: str, sigma: float) -> list[T]:
    """The task's features at the ends of both stages, (B, H, W, C)."""
    features = []
    for end in stage_ends(manager, SCALE):
        branch, frozen = torch.zeros_like(end.entry), end.frozen
        for window in end.windows:
            own = switched(
                manager, task, end.sites["proj"], window.attended.unflatten(1, frozen.window_size), sigma
            ).flatten(1, 2)
            for token, (i, j) in enumerate(window.places):
                branch[:, i, j] = linear(frozen.attn.proj, window.attended)[:, token] + own[:, token]
        z_t = end.entry + branch
        inner = norm(frozen.norm2, z_t)
        hidden = gelu(linear(frozen.mlp.fc1, inner) + switched(manager, task, end.sites["fc1"], inner, sigma))
        out = linear(frozen.mlp.fc2, hidden) + switched(manager, task, end.sites["fc2"], hidden, sigma)
        features.append(z_t + out)
    return features


@pytest.mark.parametrize(("side", "sigma", "frequency"), [(3, 1.0, 5.0), (1, 0.7, 1.0), (3, 0.0, 2.0)])
@torch.no_grad()
def test_it_equals_its_formula(side: int, sigma: float, frequency: float) -> None:
    manager = made("free_sinewich", kernel_size=side, sigma=sigma, frequency=frequency)
    perturb(manager, std=0.3)
    assert len({round(float(omega(manager, task)), 6) for task in TASKS}) == 3
    for task in TASKS[1:]:
        for found, expected in zip(read(manager, task), naive(manager, task, sigma), strict=True):
            torch.testing.assert_close(found, expected.permute(0, 3, 1, 2), rtol=0, atol=1e-9)


@torch.no_grad()
def test_tasks_share_all_but_their_prompts_and_start_alike() -> None:
    manager = made("free_sinewich")
    own = {name for name, _ in manager.trainable_parameters("depth") if "of=" in name or "task=" in name}
    assert {name.rsplit(".", 1)[-1] for name in own if "heads" not in name} == {"prompt"}
    assert all(0 < omega(manager, task) < 2 for task in TASKS)
    first, second = (read(manager, task) for task in TASKS[:2])
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)  # every kernel is sin(0)
    weights = manager.attachments[0].weights.common.sites["layers-0-blocks-1-mlp-fc1"]
    middle = weights.middle
    assert torch.equal(middle[:, :, 1, 1], torch.eye(3, dtype=torch.float64)) and middle.sum() == 3
    assert not hasattr(manager.attachments[0].weights.common.sites["layers-0-blocks-0-mlp-fc1"], "middle")


@torch.no_grad()
def test_the_sine_raises_the_rank() -> None:
    manager = made("free_sinewich", frequency=30.0)
    perturb(manager, std=0.3)
    site = manager.attachments[0].weights.common.sites["layers-1-blocks-1-mlp-fc1"]
    base = site.base()[:, :, 1, 1]
    assert torch.linalg.matrix_rank(base) == 2
    assert torch.linalg.matrix_rank(torch.sin(omega(manager, "depth") * base)) > 20


def test_a_frequency_learns_from_its_task_s_features() -> None:
    manager = made("free_sinewich")
    perturb(manager, std=0.3)
    manager(images(2, torch.float64), "depth").square().sum().backward()
    clock = manager.attachments[0].weights.common.model
    assert all(p.grad is not None and p.grad.any() for p in clock.parameters())


@pytest.mark.parametrize(("rank", "expected"), [(64, 5_404_700), (32, 2_811_932)])
def test_counts_on_swin_t(rank: int, expected: int) -> None:
    """LoRA, bases, prompts, W_up, frequencies, patch embedding with norms and tables: the parts that published totals tell."""
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    manager = mtpeft.attach(swin, "free_sinewich", rank=rank, final_norm=True)
    for task in "abcd":
        manager.add_task(task, head="stage_linear", channels=1)
    assert expected == 16 * rank * 4416 + 12 * 9 * rank**2 + 4 * 96 + 387_072 + 98 + 52_794
    assert manager.num_trainable(heads=False) == expected


def test_what_it_cannot_serve_is_refused() -> None:
    for anatomy in ("vit", "swinv2", "pvt_v2", "hiera"):
        with pytest.raises(ConfigError, match=r"'free_sinewich' cannot be attached"):
            mtpeft.attach(tiny_backbone(anatomy), "free_sinewich")
    with pytest.raises(ConfigError, match="its prompts stand in Swin's windows"):
        mtpeft.attach(tiny_backbone("vit"), "free_sinewich")
    with pytest.raises(ConfigError, match="kernel_size is 2, expected"):
        mtpeft.attach(tiny_backbone("swin"), "free_sinewich", kernel_size=2)
    with pytest.raises(ConfigError, match="sigma is -1"):
        mtpeft.attach(tiny_backbone("swin"), "free_sinewich", sigma=-1.0)
