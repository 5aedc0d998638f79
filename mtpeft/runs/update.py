"""One update of the weights: gradients added part by part, in a precision of choice, their norm limited, then a step.

Nothing here waits for the device: what steps computed is read by `Recent`, many steps at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from mtpeft.errors import MtpeftError
from mtpeft.runs.training import Training


class NonFiniteLossError(MtpeftError):
    """The loss or the gradient of a step was not a finite number; what was saved before is as it was."""


class Recent:
    """Losses and gradients' norms of the steps since they were read; until then they stay on the device, and none is waited for.

    Whoever saves or measures what came of the steps reads them first: `read` raises for one that was not finite, so that
    nothing that came of it is kept.
    """

    def __init__(self) -> None:
        """No step yet."""
        self._steps: list[tuple[int, dict[str, torch.Tensor], torch.Tensor | None]] = []

    def add(self, step: int, losses: Mapping[str, torch.Tensor], norm: torch.Tensor | None) -> None:
        """A step, its losses by name and the norm of its gradient (None: not looked at)."""
        self._steps.append((step, {name: loss.detach() for name, loss in losses.items()}, norm))

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """The losses of every step since the last call, in order: the device is waited for once.

        Raises `NonFiniteLossError`, naming the first step that had a loss or a gradient that is not finite.
        """
        steps, self._steps = self._steps, []
        tensors = [t for _, losses, norm in steps for t in (*losses.values(), *(() if norm is None else (norm,)))]
        values = iter(torch.cat([t.reshape(1) for t in tensors]).tolist() if tensors else ())
        found = []
        for step, losses, norm in steps:
            read = {name: next(values) for name in losses}
            size = 0.0 if norm is None else next(values)
            wrong = [name for name, loss in read.items() if not math.isfinite(loss)]
            if wrong or not math.isfinite(size):
                tasks = f" of task {', '.join(map(repr, wrong))}" if any(wrong) else ""
                what = (
                    f"the loss{tasks} is {read[wrong[0]]}"
                    if wrong
                    else "the gradient is not finite although the loss is"
                )
                late = f" (seen after step {steps[-1][0]})" if step != steps[-1][0] else ""
                raise NonFiniteLossError(f"step {step}: {what}{late}")
            found.append((step, read))
        return found


class Update:
    """`backward` any number of times, then `step`.

    float16 gets a gradient scaler (torch.amp.GradScaler); bfloat16 has the range of float32 and needs none.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device_type: str, training: Training) -> None:
        """`training` gives precision and limit."""
        self.optimizer, self.device_type, self.training, self.clip = optimizer, device_type, training, training.clip
        self.scaler = torch.amp.GradScaler(device_type, enabled=training.dtype is torch.float16)
        #: of the last step's gradient, where one that is not finite is a mistake
        self.norm: torch.Tensor | None = None
        self._unscaled = False

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        return self.training.autocast(self.device_type)

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
        """One update. `norm` is that of its gradient from then on.

        In float16 a gradient that is not finite is nothing unusual: the scaler leaves the step out and halves its scale.
        """
        self.unscale()
        self._unscaled = False
        grads, self.norm = self.gradients(), None
        if not grads:
            return
        if self.clip is not None or not self.scaler.is_enabled():
            norm = torch.nn.utils.get_total_norm(grads)
            self.norm = None if self.scaler.is_enabled() else norm
            if self.clip is not None:
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
