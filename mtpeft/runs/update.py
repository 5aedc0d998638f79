"""One update of the weights: gradients added part by part, in a precision of choice, their norm limited, then a step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mtpeft.errors import MtpeftError
from mtpeft.runs.training import Training


class NonFiniteLossError(MtpeftError):
    """A loss, or the gradient, is not a finite number; the weights are those of before the step."""


class Update:
    """`backward` any number of times, then `step`.

    float16 gets a gradient scaler (torch.amp.GradScaler); bfloat16 has the range of float32 and needs none.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device_type: str, training: Training) -> None:
        """`training` gives precision and limit."""
        self.optimizer, self.device_type, self.dtype, self.clip = optimizer, device_type, training.dtype, training.clip
        self.scaler = torch.amp.GradScaler(device_type, enabled=self.dtype is torch.float16)
        self._unscaled = False

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device_type, dtype=self.dtype)

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Add the gradients of `loss`; they are scaled until `unscale` or `step`."""
        self.scaler.scale(loss).backward(**kwargs)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """All that it updates."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def gradients(self) -> list[torch.Tensor]:
        """Those there are."""
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def unscale(self) -> None:
        """Make the gradients those of the losses, for what looks at them before the step. Those of other processes count."""
        if not self._unscaled and self.gradients():
            self.scaler.unscale_(self.optimizer)
            self._unscaled = True

    def step(self, **kwargs: Any) -> None:
        """One update. Raises `NonFiniteLossError`, before the weights are touched, when the gradient is not finite.

        In float16 that is nothing unusual: the scaler leaves the step out and halves its scale.
        """
        self.unscale()
        self._unscaled = False
        grads = self.gradients()
        if not grads:
            return
        norm = torch.nn.utils.get_total_norm(grads)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise NonFiniteLossError("the gradient is not finite although the losses are")
        if self.clip is not None and torch.isfinite(norm):
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        """What is needed to go on after a step."""
        scaler = self.scaler.state_dict() if self.scaler.is_enabled() else None
        return {"optimizer": self.optimizer.state_dict(), "scaler": scaler}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
