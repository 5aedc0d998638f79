"""LoRA-P&M: train under random scales of what a task adds, and after the task keep the share of it that suits all tasks.

Qiu et al., "Train with Perturbation, Infer after Merging", NeurIPS 2025 (arXiv 2505.22389). With D what the task at hand has
added to the weights so far, a step is made at w + (1 + s) D, s drawn anew from {0, +epsilon, -epsilon}, so that the loss
stays flat along D. After the task D is scaled by one number for the whole network, in closed form from the tasks' diagonal
empirical Fisher information (`mtpeft.continual.closed_form`); heads stay as they are.

Over low-rank products of sharing `accumulated` D is the newest product, in the space of the layers' weights, and earlier ones
are part of w. Over any method with sharing `shared`, D is how far its own weights have moved since the task began.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from mtpeft.continual.closed_form import added, best_share
from mtpeft.continual.inflora import evaluating
from mtpeft.continual.merged_weights import Moved, Products, information, of_manager
from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.options import NotNegative

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import SupervisedPlugin


class PerturbAndMerge(SupervisedPlugin):
    """Perturbation while a task is trained, a merge after it.

    `epsilon`: the size of s (0: no perturbation); `merge` False leaves the weights as trained; `clamp` keeps the share of D
    within 0 and 1.
    """

    def __init__(self, epsilon: NotNegative = 0.5, merge: bool = True, clamp: bool = True) -> None:
        super().__init__()
        if not epsilon and not merge:
            raise ConfigError("PerturbAndMerge does nothing with epsilon=0 and merge=False: leave it out")
        if not merge and not clamp:
            raise ConfigError("PerturbAndMerge: clamp is of the merge, and merge is False: leave it out")
        self.epsilon, self.merge, self.clamp = float(epsilon), merge, clamp
        #: the weights before the task at hand, where they are what moves
        self.origin: dict[str, torch.Tensor] = {}
        #: S and R of the tasks so far
        self.curvature: dict[str, torch.Tensor] = {}
        self.pull: dict[str, torch.Tensor] = {}
        #: the share of D kept of each task
        self.alphas: tuple[float, ...] = ()
        self._restore: list[tuple[nn.Parameter, torch.Tensor]] = []
        self._scale = 1.0

    def check(self, manager: TaskManager) -> None:
        """Raise `ConfigError` where it is not clear what a task adds to the weights of those before."""
        of_manager(manager)

    @torch.no_grad()
    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """The task's D is counted from here."""
        self.origin = {n: p.detach().clone() for n, p in self._space(strategy).moving().items()}

    @torch.no_grad()
    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Draw s, and go to w + (1 + s) D."""
        if not self.epsilon:
            return
        self._scale = 1 + self.epsilon * (0, 1, -1)[int(torch.randint(3, ()))]
        if self._scale == 1:
            return
        for name, parameter in self._space(strategy).moving().items():
            self._restore.append((parameter, parameter.detach().clone()))
            parameter.copy_(self._space(strategy).scaled(parameter, self.origin[name], self._scale))

    @torch.no_grad()
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Back to w + D, with the gradient of what was seen there."""
        for parameter, value in self._restore:
            parameter.copy_(value)
            if parameter.grad is not None:
                parameter.grad.mul_(self._scale)
        self._restore = []

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Add the task to the sums, and keep the share of D that is best for all."""
        if not self.merge:
            return
        space = self._space(strategy)
        with evaluating(strategy.model.manager):
            fisher = information(space, strategy)
        with torch.no_grad():
            start, step = space.start(self.origin), space.step(self.origin)
            self.curvature = added(self.curvature, fisher)
            self.pull = added(self.pull, {n: f * (start[n] + step[n]) for n, f in fisher.items()})
            alpha = best_share(self.curvature, self.pull, start, step)
            alpha = min(1.0, max(0.0, alpha)) if self.clamp else alpha
            self.alphas = (*self.alphas, alpha)
            for name, parameter in space.moving().items():
                parameter.copy_(space.scaled(parameter, self.origin[name], alpha))

    def _space(self, strategy: Any) -> Products | Moved:
        return of_manager(strategy.model.manager)
