"""The memory of a step: what is counted, and the peak of a large batch told from two small ones."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import mtpeft
from mtpeft.manager.manager import TaskManager
from mtpeft.runs.step_memory import StepMemory, at_batch
from mtpeft.testing.backbones import tiny_backbone

MIB = 2**20


def test_what_is_made_and_freed() -> None:
    """Bytes alive after every operation; views and what was there before count for nothing."""
    there = torch.zeros(MIB // 4)
    with StepMemory() as seen:
        one = there + 1
        view = one.view(-1, 4)[2:]
        two = one.double()
        del one
        assert seen.live == 3 * MIB  # the view holds the first
        del view
        assert seen.live == 2 * MIB
        there.add_(1)
        del two
    assert (seen.live, seen.peak, seen.saved) == (0, 3 * MIB, 0)
    assert seen.after[0] == MIB


@pytest.mark.parametrize("method", ["lora", "adaptformer", "full"])
def test_nothing_stays_behind(method: str) -> None:
    """Whoever measures leaves no tensor alive: not the table of a manager, not a step with its backward, not one without."""
    images = torch.zeros(2, 3, 64, 64)

    def measured() -> None:
        manager = mtpeft.attach(tiny_backbone("vit"), method)
        manager.add_task("birds", num_classes=3)
        assert "activations" in manager.train().table()
        with StepMemory() as seen:
            manager(images, "birds").softmax(-1).square().sum().backward()
        with StepMemory():
            manager(images, "birds").softmax(-1).square().sum()
        assert seen.saved > 0

    def alive() -> int:
        gc.collect()
        return sum(type(thing) in (torch.Tensor, nn.Parameter) for thing in gc.get_objects())

    measured()
    before = alive()
    measured()
    assert alive() == before


def test_what_autograd_keeps() -> None:
    net, x = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 5)), torch.zeros(8, 10)
    with StepMemory() as seen:
        loss = net(x).square().sum()
        assert seen.kept == 4 * 8 * (100 + 5)
        loss.backward()
        del loss
    assert seen.kept == 0 and seen.saved == 4 * 8 * 105
    assert seen.live == sum(4 * p.numel() for p in net.parameters())  # the gradients


def test_another_operation_may_need_the_most_in_a_larger_batch() -> None:
    """Small batches peak in the large sum of weights, large ones in the product with the batch."""

    def step(batch: int) -> StepMemory:
        with StepMemory() as seen:
            weights = torch.zeros(1000) + 1
            del weights
            product = torch.zeros(batch, 300) + 1
            del product
        return seen

    steps = [step(2), step(3)]
    assert at_batch(2, (2, 3), steps)[0] == step(2).peak == 8000
    assert at_batch(50, (2, 3), steps)[0] == step(50).peak == 2 * 4 * 50 * 300
    assert at_batch(6, (3,), steps[1:])[0] == 2 * step(3).peak


def train_step(manager: TaskManager, optimizer: torch.optim.Optimizer, batch: int) -> None:
    """One step of a made-up batch."""
    images, labels = torch.randn(batch, 3, 64, 64), torch.randint(10, (batch,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(manager(images, "birds"), labels).backward()
    optimizer.step()


@pytest.mark.parametrize("method", ["full", "lora", "lst", "linear_probe"])
def test_the_peak_of_batch_16_is_told_from_two_and_three_images(method: str) -> None:
    """Against the step itself, and against what torch's allocator says, which knows nothing of this."""
    manager = mtpeft.attach(tiny_backbone("vit"), method)
    manager.add_task("birds", num_classes=10)
    manager.train()
    optimizer = torch.optim.AdamW([p for p in manager.parameters() if p.requires_grad])
    train_step(manager, optimizer, 2)
    steps = []
    for batch in (2, 3, 16):
        with StepMemory() as seen:
            train_step(manager, optimizer, batch)
        steps.append(seen)
    told = at_batch(16, (2, 3), steps[:2])
    assert told == pytest.approx((steps[2].peak, steps[2].saved), rel=0.02)
    manager.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_step(manager, optimizer, 16)
    allocated = highest = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            highest = max(highest, allocated)
    assert told[0] == pytest.approx(highest, rel=0.05)
