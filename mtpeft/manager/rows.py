"""Images as rows: what the frozen part of a backbone makes of them, for a manager that goes on from there."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from mtpeft.errors import ConfigError
from mtpeft.hooks.frozen import FrozenPart
from mtpeft.hooks.runtime import Selection
from mtpeft.manager.features import extract, flat

if TYPE_CHECKING:
    from mtpeft.manager.manager import TaskManager


def take_rows(
    manager: TaskManager, reads: Iterable[str] | None = None, image_size: tuple[int, int] | None = None
) -> FrozenPart:
    """Have `manager` take rows (B, width) wherever it takes images (B, C, H, W) of `image_size`; the part that makes them.

    `reads` are the kinds of features that heads read, by default those of the manager's tasks, or "pooled" without any.
    It is tried on noise: what the manager makes of rows must be what it makes of the images. Raises `ConfigError` where
    nothing frozen precedes what is trained, where the frozen part is random, or where that trial fails.
    """
    if manager.trains_all:
        raise ConfigError("all of the backbone is trained: no part of it is frozen")
    if manager.backbone_train_mode:
        raise ConfigError("the backbone drops at random while it is trained (backbone.train_mode)")
    kinds = set(reads or {getattr(manager.head(task), "reads", "pooled") for task in manager.tasks} or {"pooled"})
    size = image_size or manager.anatomy.image_size
    instruments = manager._installation.instruments
    manager.frozen_part = FrozenPart(manager.anatomy, manager.methods, instruments, manager.runtime, kinds, size)
    try:
        with manager.runtime.trials():
            _try(manager, manager.frozen_part, kinds)
    except Exception:
        manager.frozen_part = None
        raise
    return manager.frozen_part


@torch.no_grad()
def _try(manager: TaskManager, part: FrozenPart, kinds: set[str]) -> None:
    """Compare features of two images of noise and of their rows: on a CPU they are the same bits."""
    reference = next(manager.backbone.parameters())
    shape = (2, manager.anatomy.input_size[0], *part.image_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(reference)
    training = manager.training
    manager.eval()
    try:
        rows = part.rows(noise)
        if manager.tasks:
            given, made = (extract(manager, x, Selection((manager.tasks[0],)), kinds) for x in (noise, rows))
            pairs = list(zip(flat(given), flat(made), strict=True))
        else:
            pairs = [(_plain(manager, noise), _plain(manager, rows))]
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise _unknown(manager, " ".join(str(error).split())) from error
    finally:
        manager.train(training)
    same = torch.equal if reference.device.type == "cpu" else partial(torch.allclose, rtol=1e-3, atol=1e-5)
    if not all(same(one, other) for one, other in pairs):
        raise _unknown(manager, "another result")


def _plain(manager: TaskManager, images: torch.Tensor) -> torch.Tensor:
    """The pooled features of the backbone without any method."""
    backbone: Any = manager.backbone
    part, context = manager.frozen_part, manager.runtime.context
    assert part is not None
    manager.runtime.context = None
    try:
        if images.ndim == 2:
            raw = part.replay(None, images)
            if part.pooled:
                return part.layout.unpack(images)["pooled", 0]
        else:
            raw = backbone.forward_features(images)
        pooled: torch.Tensor = backbone.forward_head(raw, pre_logits=True)
        return pooled
    finally:
        manager.runtime.context = context


def _unknown(manager: TaskManager, reason: str) -> ConfigError:
    name = type(manager.backbone).__name__
    return ConfigError(f"{name} cannot go on from the middle: from its frozen blocks' outputs it gives {reason}")
