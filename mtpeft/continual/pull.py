"""Weights of a task that start from those of the task before, and are pulled towards the mean of all earlier ones.

The progressive merging of MOS (Sun et al., AAAI 2025, arXiv 2412.09441): so that what tasks learn one after another stays
near enough for their features to be told apart by one head. After every step of task t > 0, once:
A <- (1 - strength) A + strength * mean(A_0 .. A_{t-1}), of every weight and bias of its set. Weights of earlier tasks stay.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.options import Share
from mtpeft.sharing.per_task import PerTask

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import SupervisedPlugin


class PullToEarlier(SupervisedPlugin):
    """Over any method with weights of each task's own (sharing `per_task`); `strength` is MOS's.

    `warm_start`: a task's set starts as a copy of that of the task before; without it as the method draws it.
    """

    def __init__(self, strength: Share = 0.1, warm_start: bool = True) -> None:
        super().__init__()
        self.strength, self.warm_start = strength, warm_start
        #: the number of the last task that has begun: its start is no longer to be made
        self.begun = 0
        self._pairs: list[tuple[nn.Parameter, torch.Tensor]] = []

    def check(self, manager: TaskManager) -> None:
        """Raise `ConfigError` where a method's weights are not each task's own, or change in shape or meaning."""
        own = [attachment for attachment in manager.methods if attachment.selected]
        if not own:
            raise ConfigError("PullToEarlier: no attached method has weights; leave the plugin out")
        for attachment in own:
            name = attachment.spec.name
            if not isinstance(attachment.weights, PerTask):
                raise ConfigError(
                    f"PullToEarlier moves one set of weights per task: sharing='per_task' for method {name!r}, not "
                    f"{attachment.sharing_name!r}"
                )
            if attachment.asks or attachment.spec.module.paced:
                raise ConfigError(
                    f"PullToEarlier takes means of weights, which method {name!r} chooses anew for every task: use another"
                )

    @torch.no_grad()
    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The start of the task's set, and the means of those before it."""
        task, names = strategy.experience.current_experience, [name for name, _ in strategy.model.experiences]
        self._pairs = []
        if task == 0:
            return
        for attachment in strategy.model.manager.methods:
            if not attachment.selected:
                continue
            own, *earlier = [attachment.weights.bank(name) for name in reversed(names[: task + 1])]
            if self.warm_start and self.begun < task:
                own.load_state_dict(earlier[0].state_dict())
            sets = [dict(bank.named_parameters()) for bank in earlier]
            self._pairs += [
                (parameter, torch.stack([found[name] for found in sets]).mean(0))
                for name, parameter in own.named_parameters()
                if parameter.requires_grad
            ]
        self.begun = task

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """The pull, after every optimiser step."""
        for parameter, mean in self._pairs:
            parameter.lerp_(mean, self.strength)
