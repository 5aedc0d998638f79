"""MMEngine's optimiser wrapper with automatic mixed precision on any device.

MMEngine's own `AmpOptimWrapper` refuses a CPU. Here the forward pass runs under `torch.autocast` of the device at
hand, and float16 gets a gradient scaler (torch.amp.GradScaler); bfloat16 has the range of float32 and needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mtpeft.errors import MtpeftError


class NonFiniteLossError(MtpeftError):
    """A loss, or the gradient, is not a finite number; the weights are those of before the step."""


@OPTIM_WRAPPERS.register_module(force=True)
class AutocastOptimWrapper(OptimWrapper):
    """`optim_context` is the forward pass in precision `dtype` (None: as the weights are)."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device_type: str = "cpu",
        dtype: torch.dtype | None = None,
        clip: float | None = None,
    ) -> None:
        """`clip` limits the norm of the gradient."""
        super().__init__(optimizer)
        self.device_type, self.dtype, self.clip = device_type, dtype, clip
        self.scaler = torch.amp.GradScaler(device_type, enabled=dtype is torch.float16)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of the forward pass and the losses."""
        if self.dtype is None:
            yield
            return
        with torch.autocast(self.device_type, dtype=self.dtype):
            yield

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Add the gradients of `loss`."""
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """One update. Raises `NonFiniteLossError`, before the weights are touched, when the gradient is not finite.

        In float16 that is nothing unusual: the scaler leaves the step out and halves its scale.
        """
        self.scaler.unscale_(self.optimizer)
        grads = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise NonFiniteLossError("the gradient is not finite although the losses are")
        if self.clip is not None and grads and torch.isfinite(norm):
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()
