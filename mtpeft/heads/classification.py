"""Heads for classification: one linear layer per task, or one head that grows with every task."""

from __future__ import annotations

import torch
from torch import nn

from mtpeft.errors import ConfigError
from mtpeft.heads.base import Head, register_head
from mtpeft.options import Count


def linear(dim: int, num_classes: int) -> nn.Linear:
    """A linear classifier: weights truncated normal with standard deviation 0.02 (timm's), bias zero."""
    if num_classes < 1:
        raise ConfigError(f"num_classes={num_classes}: a head needs at least one class")
    layer = nn.Linear(dim, num_classes)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


@register_head("linear")
class LinearHead(Head):
    """Pooled features (B, C) -> logits (B, num_classes)."""

    def __init__(self, dim: int, num_classes: Count) -> None:
        super().__init__()
        self.fc = linear(dim, num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C) -> (B, num_classes)."""
        return self.fc(features)

    def linear(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The layer's."""
        return self.fc.weight, self.fc.bias


@register_head("growing")
class GrowingHead(Head):
    """One head for all tasks of a class-incremental stream: a linear part per task, logits side by side.

    Created empty; `grow` adds a task's classes. `masked` restricts logits to one task's classes.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.parts = nn.ModuleDict()

    def grow(self, task: str, num_classes: Count) -> None:
        """Append `num_classes` classes of `task` behind those seen so far."""
        self.parts[f"task={task}"] = linear(self.dim, num_classes)

    def part(self, task: str) -> nn.Module:
        """The linear layer of one task's classes."""
        return self.parts[f"task={task}"]

    def shrink(self, task: str) -> None:
        """Forget a task's classes. Only the last task can go: the others' classes keep their numbers."""
        if list(self.parts)[-1] != f"task={task}":
            raise ConfigError(f"task {task!r} cannot leave the growing head before the tasks added after it")
        del self.parts[f"task={task}"]

    def classes(self, task: str) -> range:
        """The task's columns among the logits."""
        start = 0
        for name, part in self.parts.items():
            stop = start + len(part.bias)  # type: ignore[arg-type]
            if name == f"task={task}":
                return range(start, stop)
            start = stop
        raise ConfigError(f"task {task!r} has no classes in the growing head")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C) -> (B, all classes seen so far)."""
        return torch.cat([part(features) for part in self.parts.values()], dim=1)

    def linear(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Those of all classes seen so far."""
        parts = list(self.parts.values())
        return tuple(torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias"))  # type: ignore[return-value]

    def masked(self, logits: torch.Tensor, task: str) -> torch.Tensor:
        """Logits with every class that is not the task's at minus infinity."""
        keep = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        own = self.classes(task)
        keep[own.start : own.stop] = True
        return logits.masked_fill(~keep, float("-inf"))
