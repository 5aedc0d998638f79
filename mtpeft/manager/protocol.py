"""What the manager's helpers know of it: the state they read, and nothing that they are part of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.runtime import Runtime


class Managed(Protocol):
    """The view of a `TaskManager` that extraction, counting, merging and saving take."""

    backbone: Any
    anatomy: Anatomy
    runtime: Runtime
    fingerprint: str
    forced: bool
    head_specs: dict[str, dict[str, Any]]
    frozen_tasks: set[str]

    @property
    def methods(self) -> Sequence[Attachment]:
        """The attached methods, in the order they act."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of the tasks, in the order they were added."""

    def head(self, name: str) -> nn.Module:
        """The module that turns features into the task's output."""

    def num_trainable(self, task: str | None = None, heads: bool = True) -> int:
        """Trainable weights of one task, or of all together."""

    def trained_state(self) -> Mapping[str, torch.Tensor]:
        """Everything that is trained or mutated, by name."""
