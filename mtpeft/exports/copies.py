"""Copies of a manager that can leave: on the CPU, in float32, in eval mode, independent of the original."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import FRAME_STYLES
from mtpeft.errors import ConfigError
from mtpeft.heads import GrowingHead
from mtpeft.manager.attach import attach
from mtpeft.manager.manager import TaskManager
from mtpeft.manager.merging import as_linear


class OneTask(nn.Module):
    """A manager's task as a model of its own: images (B, C, H, W), or clips (B, C, T, H, W), to the task's output."""

    def __init__(self, manager: TaskManager, task: str) -> None:
        """`manager` is no copy: give one that nobody else changes."""
        super().__init__()
        self.manager, self.task = manager, task

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What `manager(images, task)` gives; `ConfigError` where that is not one tensor."""
        output = self.manager(images, self.task)
        if not isinstance(output, torch.Tensor):
            raise ConfigError(
                f"the head of task {self.task!r} gives a {type(output).__name__}; export takes one tensor"
            )
        return output


def copied(manager: TaskManager) -> TaskManager:
    """An independent copy on the CPU, in float32 and eval mode, that trains nothing."""
    made = copy.deepcopy(manager).cpu().float().eval().requires_grad_(False)
    for module in made.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.dtype == torch.bool and buffer.ndim == 0:
                del module._buffers[name]  # a flag is settled before a graph is traced: a tensor would be open in it
                setattr(module, name, bool(buffer))
    return made


def folded(manager: TaskManager, task: str) -> TaskManager:
    """A manager of the merged backbone, with no method on it and the task's head as it is.

    Raises `ConfigError` naming the method that does not fold.
    """
    head = manager.head(task)
    plain: Any = manager.merge(task)
    plain.reset_classifier(0)
    bare = attach(plain, "linear_probe")
    bare.add_task(task, head=_alone(head))
    return bare.eval().requires_grad_(False)


def folds(manager: TaskManager) -> str | None:
    """None where `merge` gives the whole of every method; else the name of the one that does not fold."""
    for attachment in manager.methods:
        if not attachment.spec.folds or any(site.style in FRAME_STYLES for site in attachment.selected):
            return f"method {attachment.spec.name!r}"
        if attachment.weights.members > 1 or attachment.weights.reads_query:
            return f"sharing {attachment.sharing_name!r}"
    return None


def inputs(manager: TaskManager, count: int, seed: int = 0, frames: int | None = None) -> torch.Tensor:
    """Random images (count, C, H, W) of the size the backbone takes, or clips (count, C, frames, H, W)."""
    channels, height, width = manager.anatomy.input_size
    shape = (channels, height, width) if frames is None else (channels, frames, height, width)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def _alone(head: nn.Module) -> nn.Module:
    """A copy of the head that belongs to no other task: the growing head as the linear map it is, or all its cosines."""
    linear = as_linear(head)
    if linear is None:
        return head.alone() if isinstance(head, GrowingHead) else copy.deepcopy(head)
    weight, bias = linear
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer
