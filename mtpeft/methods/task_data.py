"""What a method sees in its fit: a task's training data, and the plain backbone it is attached to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch

from mtpeft.backbones.site import Site


class TaskData(Protocol):
    """One task's training data, and the backbone as it is without any method, in evaluation mode.

    As long as the fit lasts all weights of the backbone take gradients, by `torch.autograd.grad`; nothing of it is left
    afterwards, and random numbers that a fit draws are drawn again by the next one.
    """

    @property
    def sites(self) -> Mapping[str, Site]:
        """The method's sites, by the keys that its modules have."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches on the backbone's device, from the beginning at every call: images or clips, and their labels.

        Labels are class numbers (B,), or what the task's loss takes.
        """

    def watch(self, images: torch.Tensor, see: Callable[[str, torch.Tensor, torch.Tensor], None]) -> None:
        """One forward, without gradients: `see(key, x, y)` is called with the input and the output of each site."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features (B, C), with a graph to the backbone's weights."""

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The task's loss of its head's output on the plain features, with the same graph."""
