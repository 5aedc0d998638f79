"""MMEngine's optimiser wrapper around the update both engines make: MMEngine's own `AmpOptimWrapper` refuses a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mtpeft.runs.update import Update


@OPTIM_WRAPPERS.register_module(force=True)
class UpdateWrapper(OptimWrapper):
    """An `Update`, as MMEngine calls it."""

    def __init__(self, update: Update) -> None:
        """Wraps `update` and its optimiser."""
        super().__init__(update.optimizer)
        self.update = update

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of the forward pass and the losses."""
        with self.update.autocast():
            yield

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Add the gradients of `loss`."""
        self.update.backward(loss, **kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """One update."""
        self.update.step(**kwargs)
