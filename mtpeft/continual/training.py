"""How an experience is trained: optimiser, schedule, epochs."""

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
SCHEDULES = ("constant", "cosine")
LOSSES = ("cross_entropy", "local_cross_entropy")


@dataclass(frozen=True)
class Training:
    """Settings of one experience.

    `optimizer`: `dict(type="AdamW", lr=..., ...)`, made anew for every experience; vectors (biases, norms, scales) and
    learned positions get no weight decay. `head_lr`: learning rate of the heads, if it is not the optimiser's. `schedule`
    constant or cosine, after `warmup` (share of the experience's steps). `loss` "local_cross_entropy" sees only the
    experience's own classes (LAE). `clip_norm` limits the gradient's norm. `log_every` steps are averaged into one point of
    the loss curve. `eval_every` (Avalanche's) evaluates the current experience every so many epochs, for plugins such as
    early stopping.
    """

    epochs: int = 1
    batch_size: int = 32
    optimizer: dict[str, Any] = field(default_factory=lambda: {"type": "AdamW", "lr": 1e-3})
    head_lr: float | None = None
    schedule: str = "constant"
    warmup: float = 0.0
    loss: str = "cross_entropy"
    clip_norm: float | None = None
    eval_batch_size: int = 256
    num_workers: int = 0
    log_every: int = 5
    eval_every: int = -1

    def __post_init__(self) -> None:
        for key, choices in (("schedule", SCHEDULES), ("loss", LOSSES)):
            if getattr(self, key) not in choices:
                raise UnknownNameError(key, getattr(self, key), choices, f"key training.{key}")
        for key in ("epochs", "batch_size", "eval_batch_size", "log_every"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"training.{key} is {value!r}, expected a whole number, 1 or more")
        kind = self.optimizer.get("type")
        if kind not in OPTIMIZERS:
            raise UnknownNameError("optimizer", kind, OPTIMIZERS, "key training.optimizer.type")
        known = set(inspect.signature(OPTIMIZERS[kind]).parameters) - {"params"}
        for key in self.optimizer:
            if key != "type" and key not in known:
                raise ConfigError(f"training.optimizer: {kind} takes no {key!r}.{nearest(key, known)}")

    def build_optimizer(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """An optimiser over named parameters: vectors and positions without weight decay, heads at their own rate."""
        options = {k: v for k, v in self.optimizer.items() if k != "type"}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in parameters:
            groups.setdefault((name.startswith("heads."), decays(name, parameter)), []).append(parameter)
        packed = []
        for (head, decayed), members in groups.items():
            group: dict[str, Any] = {"params": members}
            if not decayed:
                group["weight_decay"] = 0.0
            if head and self.head_lr is not None:
                group["lr"] = self.head_lr
            packed.append(group)
        if not packed:
            raise ConfigError("nothing is left to train: every task is frozen")
        optimizer = OPTIMIZERS[self.optimizer["type"]](packed, **options)
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
        return optimizer

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> None:
        """Learning rates for step `step` (from 0) of `total`: a function of the step alone, so there is no state to save."""
        factor = self.rate_factor(step, total)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def rate_factor(self, step: int, total: int) -> float:
        """Linear warm-up, then constant or half a cosine down to zero."""
        warm = round(self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
