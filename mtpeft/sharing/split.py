"""One set of weights for all tasks and a small one of each task's own beside it, served by one pass."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.func import functional_call, vmap

from mtpeft.methods.base import Taps
from mtpeft.sharing.bank import Bank, BankFactory
from mtpeft.sharing.base import Sharing, register_sharing


@register_sharing("split")
class Split(Sharing):
    """Methods with a task stream: the shared bank feeds the backbone, task streams leave it at the stage ends."""

    single_pass: ClassVar[bool] = True

    def __init__(self, factory: BankFactory) -> None:
        """`factory` builds the shared bank at once, and a task's streams when the task is added."""
        super().__init__(factory)
        self.common = factory()
        self.tasks = nn.ModuleDict()

    def add_task(self, task: str) -> None:
        """Streams of the task's own."""
        self.tasks[f"task={task}"] = self.factory.streams()

    def remove_task(self, task: str) -> None:
        """Drop the task's streams."""
        del self.tasks[f"task={task}"]

    def bank(self, task: str) -> Bank:
        """The shared bank."""
        return self.common

    def banks(self) -> list[Bank]:
        """The shared bank alone."""
        return [self.common]

    def modules_of(self, task: str) -> list[nn.Module]:
        """The shared bank and the task's streams."""
        return [self.common, *self.own_modules(task)]

    def own_modules(self, task: str) -> list[nn.Module]:
        """The task's streams."""
        return [self.tasks[f"task={task}"]]

    def offsets(self, block: int, tasks: tuple[str, ...], taps: Taps) -> torch.Tensor:
        """What each task's features have more than the shared ones after `block`: (T, B, ...), one batched call."""
        streams = [self.tasks[f"task={task}"][str(block)] for task in tasks]  # type: ignore[index]
        if len(streams) == 1:
            return streams[0](taps).unsqueeze(0)
        named = [dict(stream.named_parameters()) for stream in streams]
        weights = {name: torch.stack([own[name] for own in named]) for name in named[0]}
        return vmap(lambda w: functional_call(streams[0], w, (taps,)), randomness="different")(weights)
