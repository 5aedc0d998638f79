"""How a joint run is trained: optimiser, learning-rate schedule, batch, precision. Plain numbers from the recipe."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mtpeft.errors import ConfigError, UnknownNameError, nearest
from mtpeft.runs.decay import decays

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "SGD": torch.optim.SGD,
}
SCHEDULES = ("constant", "cosine", "linear", "poly")
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Training:
    """The recipe's section `training`.

    A step is one update of the optimiser. It takes `accumulate` parts of `batch_size` samples, each part shared out
    over the processes, and equals the step of one batch of `accumulate * batch_size`. `warmup` is the share of the
    steps with a rising rate, `schedule` what follows; `power` belongs to "poly". `clip` limits the gradient's norm.
    `amp` "bfloat16" or "float16" runs the forward pass in that precision. `optimizer` is a name or a mapping
    `dict(type="SGD", momentum=0.9)`; vectors (biases, norms, scales) get no weight decay; `head_rate` is the heads'
    learning rate where it is not `learning_rate`. `log_every` steps make a point of the loss curve; `eval_every` steps
    an evaluation (0: only at the end). `workers` processes read the data; `threads` are torch's (0: as they are).
    """

    steps: int
    batch_size: int = 16
    learning_rate: float = 1e-3
    head_rate: float | None = None
    weight_decay: float = 0.01
    optimizer: str | dict[str, Any] = "AdamW"
    warmup: float = 0.05
    schedule: str = "cosine"
    power: float = 0.9
    accumulate: int = 1
    clip: float | None = None
    amp: str | None = None
    log_every: int = 10
    eval_every: int = 0
    eval_batch_size: int = 32
    workers: int = 0
    threads: int = 0
    optimizer_type: str = field(init=False)
    optimizer_options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        given = self.optimizer if isinstance(self.optimizer, dict) else {"type": self.optimizer}
        object.__setattr__(self, "optimizer_type", given.get("type"))
        object.__setattr__(self, "optimizer_options", {k: v for k, v in given.items() if k != "type"})
        choices = (("schedule", self.schedule, SCHEDULES), ("optimizer", self.optimizer_type, OPTIMIZERS))
        for key, value, names in choices:
            if value not in names:
                raise UnknownNameError(key, value, names, f"key training.{key}")
        if self.amp is not None and self.amp not in PRECISIONS:
            raise UnknownNameError("precision", self.amp, PRECISIONS, "key training.amp")
        for key in ("steps", "batch_size", "accumulate", "log_every", "eval_batch_size"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 1:
                raise ConfigError(f"training.{key} is {getattr(self, key)!r}, expected a whole number of 1 or more")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"training.warmup is {self.warmup}, expected a share of the steps, 0 to 1")
        known = set(inspect.signature(OPTIMIZERS[self.optimizer_type]).parameters) - {"params", "lr", "weight_decay"}
        for key in self.optimizer_options:
            if key not in known:
                raise ConfigError(f"training.optimizer: {self.optimizer_type} takes no {key!r}.{nearest(key, known)}")

    @classmethod
    def keys(cls) -> list[str]:
        """What a recipe may set."""
        return [name for name, f in cls.__dataclass_fields__.items() if f.init]

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision of the forward pass, None for the weights' own."""
        return None if self.amp is None else PRECISIONS[self.amp]

    def build_optimizer(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """An optimiser over named parameters in up to four groups: heads or not, matrices (with decay) or vectors."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in parameters:
            groups.setdefault(("heads." in name, decays(name, parameter)), []).append(parameter)
        if not groups:
            raise ConfigError("nothing is left to train: every task is frozen")
        packed = []
        for (head, decayed), members in groups.items():
            rate = self.head_rate if head and self.head_rate is not None else self.learning_rate
            decay = self.weight_decay if decayed else 0.0
            packed.append({"params": members, "lr": rate, "base_rate": rate, "weight_decay": decay})
        options: dict[str, Any] = {"lr": self.learning_rate, **self.optimizer_options}
        return OPTIMIZERS[self.optimizer_type](packed, **options)

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Learning rates of step `step` (from 0): a function of the step alone, so there is no state to save."""
        factor = self.rate_factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor

    def rate_factor(self, step: int) -> float:
        """Linear warm-up, then constant, half a cosine, a line, or (1 - t)^power, each but the first down to zero."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        rest = 1.0 - (step - warm) / max(1, self.steps - warm)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (1.0 - rest)))
        return rest if self.schedule == "linear" else rest**self.power
