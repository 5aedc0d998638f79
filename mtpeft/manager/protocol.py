"""What the manager's helpers know of it: the state they read, and nothing that they are part of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.frozen import FrozenPart
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
    owned: set[str]
    backbone_train_mode: bool
    frozen_part: FrozenPart | None
    training: bool

    @property
    def methods(self) -> Sequence[Attachment]:
        """The attached methods, in the order they act."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of the tasks, in the order they were added."""

    @property
    def single_pass(self) -> bool:
        """Whether one pass of the backbone over an image serves all tasks."""

    def head(self, name: str) -> nn.Module:
        """The module that turns features into the task's output."""

    def num_trainable(self, task: str | None = None, heads: bool = True) -> int:
        """Trainable weights of one task, or of all together."""

    def trained_state(self) -> Mapping[str, torch.Tensor]:
        """Everything that is trained or mutated, by name."""

    def used_modules(self, task: str) -> list[nn.Module]:
        """The modules whose weights the task's output depends on."""

    def __call__(self, images: torch.Tensor, task: str) -> Any:
        """Outputs of one task."""

    def train(self, mode: bool = True) -> Any:
        """Training mode, as of any module."""

    def modules(self) -> Iterator[nn.Module]:
        """All modules, as of any module."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, as of any module."""

    def buffers(self) -> Iterator[torch.Tensor]:
        """All buffers, as of any module."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters, as of any module."""

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules right below, as of any module."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All parameters and buffers, as of any module."""
