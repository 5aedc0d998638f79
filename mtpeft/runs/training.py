"""How a run is trained: optimiser, schedule, batches, precision. The recipe's section `training`, as both engines have it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import torch
from torch import nn

from mtpeft.errors import ConfigError, UnknownNameError, nearest
from mtpeft.manager.groups import parameter_groups
from mtpeft.methods.group import Group
from mtpeft.options import Count, NotNegative, OneOf, Positive, Range, Section, WholeNumber, options_of, take

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "SGD": torch.optim.SGD,
}
SCHEDULES = ("constant", "cosine", "linear", "poly")
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
PRODUCTS = ("highest", "high", "medium")
#: keys of earlier versions, and what says the same
RENAMED = {
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "head_rate": "head_lr",
    "num_workers": "workers",
    "clip_norm": "clip",
}

T = TypeVar("T", bound="Training")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of both engines; each adds how long it trains.

    A step is one update of the optimiser. It takes `accumulate` parts of `batch_size` samples and equals the step of one
    batch of `accumulate * batch_size`. `optimizer` is `dict(type="AdamW", lr=..., ...)`, its other keys torch's; vectors
    (biases, norms, scales) and learned positions get no weight decay, and weights that a method gives a rate of its own learn
    at a multiple of `lr` (`SiteModule.group`). `head_lr` is the heads' learning rate where it is not the optimiser's.
    `warmup` is the share of the steps with a rising rate, `schedule` what follows: constant, or down to zero along half a
    cosine, a line, or (1 - t)^`power` (poly, 0.9 by default). `clip` limits the gradient's norm. `amp` "bfloat16" or
    "float16" runs the forward pass of training in that precision. `log_every` steps make a point of the loss curve.
    `eval_every` evaluates between (0: only at the end): every so many steps of a joint run; every so many epochs the
    current task of a continual one, for plugins such as early stopping. `workers` processes read the data.

    What follows changes speed and memory, and results by rounding alone. `grad_checkpointing` keeps the inputs of the
    backbone's blocks alone and runs them again in the backward pass. `compile` makes one graph of the backbone's forward
    pass of training (torch.compile). `channels_last` lays out images and convolutions so. `matmul_precision` is that of
    torch.set_float32_matmul_precision while the run goes. `threads` are torch's (0: what suits the machine, see
    `mtpeft.runs.threads`).
    """

    batch_size: Count = 32
    optimizer: dict[str, Any] = field(default_factory=lambda: {"type": "AdamW", "lr": 1e-3})
    head_lr: NotNegative | None = None
    schedule: Annotated[str, OneOf(SCHEDULES)] = "constant"
    power: NotNegative | None = None
    warmup: Annotated[float, Range(at_least=0, at_most=1)] = 0.0
    accumulate: Count = 1
    clip: Positive | None = None
    amp: Annotated[str, OneOf(tuple(PRECISIONS))] | None = None
    eval_batch_size: Count = 64
    workers: WholeNumber = 0
    threads: WholeNumber = 0
    grad_checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False
    matmul_precision: Annotated[str, OneOf(PRODUCTS)] | None = None
    log_every: Count = 5
    eval_every: WholeNumber = 0

    @classmethod
    def read(cls: type[T], section: Section) -> T:
        """The section of a recipe. Raises `ConfigError` for keys nothing reads, naming the new one for an old one."""
        for key, new in RENAMED.items():
            if key in section.values:
                raise ConfigError(f"recipe {section.recipe}: {section.path}{key} is now {section.path}{new}")
        values = section.fields(cls)
        for key, option in options_of(cls).items():
            if option.required:
                section.take(key)
        return cls(**values)

    def __post_init__(self) -> None:
        if self.power is not None and self.schedule != "poly":
            raise ConfigError(f"training.power belongs to the schedule poly; {self.schedule!r} has none: leave it out")
        given = self.optimizer
        kind = given.get("type")
        if not isinstance(kind, str) or kind not in OPTIMIZERS:
            raise UnknownNameError("optimizer", kind, OPTIMIZERS, "key training.optimizer.type")
        known = set(inspect.signature(OPTIMIZERS[kind]).parameters) - {"params"}
        for key in given:
            if key != "type" and key not in known:
                raise ConfigError(f"training.optimizer: {kind} takes no {key!r}.{nearest(key, known)}")
        if "lr" not in given:
            raise ConfigError(f"training.optimizer.lr is missing: dict(type={kind!r}, lr=...)")
        for key in ("lr", "weight_decay"):
            take(NotNegative, given.get(key, 0.0), f"training.optimizer.{key}")

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision of the forward pass, None for the weights' own."""
        return None if self.amp is None else PRECISIONS[self.amp]

    def autocast(self, device_type: str) -> AbstractContextManager[Any]:
        """The context of the forward pass on a device."""
        return nullcontext() if self.dtype is None else torch.autocast(device_type, dtype=self.dtype)

    def build_optimizer(
        self, parameters: Iterable[tuple[str, nn.Parameter]], groups: Mapping[nn.Parameter, Group] | None = None
    ) -> torch.optim.Optimizer:
        """An optimiser over named parameters: heads or not, with weight decay or not, and by what `groups` say of them."""
        parameters, more = list(parameters), {}
        if self.amp == "float16" and not self.optimizer.get("foreach") and any(p.is_cuda for _, p in parameters):
            more["fused"] = True  # the others wait for the scaler's word on whether to step
        packed = parameter_groups(parameters, groups or {}, self.optimizer["lr"], self.head_lr)
        if not packed:
            raise ConfigError("nothing is left to train: every task is frozen")
        try:
            optimizer = self.optimizer_of(packed, **more)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"training.optimizer {self.optimizer}: {str(error).splitlines()[0]}") from None
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
        return optimizer

    def optimizer_of(self, parameters: Any, **more: Any) -> torch.optim.Optimizer:
        """The optimiser of plain parameters or groups, with `more` options than the recipe gives."""
        options = {k: v for k, v in self.optimizer.items() if k != "type"}
        return OPTIMIZERS[self.optimizer["type"]](parameters, **{**more, **options})

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> None:
        """Learning rates for step `step` (from 0) of `total`: a function of the step alone, so there is no state to save."""
        factor = self.rate_factor(step, total)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def rate_factor(self, step: int, total: int) -> float:
        """Linear warm-up, then the schedule."""
        warm = round(self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        done = (step - warm) / max(1, total - warm)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "linear":
            return 1 - done
        return (1 - done) ** (0.9 if self.power is None else self.power)
