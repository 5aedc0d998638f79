"""Adapters of FAAR whose ranks tests choose."""

from __future__ import annotations

from typing import Any

import torch

import mtpeft
from mtpeft.manager.pace import paced_modules
from mtpeft.methods.reparameter.faar import ShrinkingDoRA
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import perturb


def made(anatomy: str = "vit", tasks: tuple[str, ...] = ("depth", "normals"), **options: Any) -> Any:
    """A manager in double precision with perturbed weights, in training mode."""
    manager = mtpeft.attach(tiny_backbone(anatomy).double(), "faar", **options)
    for task in tasks:
        manager.add_task(task, num_classes=2)
    perturb(manager, std=0.2)
    return manager.train()


def adapters(manager: Any) -> list[ShrinkingDoRA]:
    found = [module for module in paced_modules(manager) if isinstance(module, ShrinkingDoRA)]
    assert found
    return found


def adapter(rank: int = 4, **options: Any) -> ShrinkingDoRA:
    """One adapter at fc1 of a block, its B not zero."""
    manager = mtpeft.attach(tiny_backbone("vit").double(), "faar", rank=rank, **options)
    bank: Any = manager.attachments[0].weights.bank("")  # type: ignore[union-attr, operator]
    found = bank.sites["blocks-1-mlp-fc1"].adapter.train()
    found.double()
    torch.nn.init.normal_(found.lora_B)
    return found


def shrink(module: ShrinkingDoRA, scores: list[float]) -> None:
    """An epoch's end after which the scores are these."""
    module.score.copy_(torch.tensor(scores))
    module.seen.fill_(1)
    module.after_epoch()
