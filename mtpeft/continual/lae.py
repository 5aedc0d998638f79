"""LAE: two copies of the shared weights, one trained, one its moving average, and their ensemble at test time.

Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient Tuning", ICCV 2023, sections 3.2 to
3.4. The online weights are trained with local cross-entropy; from the second task on they stay frozen for the first
epochs while the new head learns (calibrated learning speed, together with the trained scales of `learnable_scale` and
`calibrated` prefixes). The offline weights start as a copy when the second task begins and follow by momentum after every
step: off <- a off + (1 - a) on. Prediction: the larger of both copies' softmax probabilities, over all classes seen.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from mtpeft.errors import ConfigError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import SupervisedPlugin


class LAEPlugin(SupervisedPlugin):
    """Learning - accumulation - ensemble, over any attached method with shared weights.

    `momentum` a; `frozen_epochs`: epochs at the start of every task but the first in which only heads learn (the paper: 3
    of 5 on CIFAR-100, 30 of 50 on ImageNet-R).
    """

    def __init__(self, momentum: float = 0.9999, frozen_epochs: int = 0) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ConfigError(f"LAE: momentum is {momentum}, expected 0 <= momentum < 1")
        self.momentum, self.frozen_epochs = momentum, frozen_epochs
        self.offline: dict[str, torch.Tensor] = {}

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Local cross-entropy from now on."""
        if not self._online(strategy):
            raise ConfigError("LAE needs a method with weights shared by the tasks: sharing='shared'")
        strategy.local_loss = True

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The second task starts: the offline copy comes to be."""
        if strategy.experience.current_experience > 0 and not self.offline:
            self.offline = {name: p.detach().clone() for name, p in self._online(strategy).items()}

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """While the online weights are frozen their gradients are dropped, so that the optimiser skips them."""
        if strategy.experience.current_experience > 0 and strategy.clock.train_exp_epochs < self.frozen_epochs:
            for parameter in self._online(strategy).values():
                parameter.grad = None

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Accumulation, after every optimiser step."""
        online = self._online(strategy)
        for name, average in self.offline.items():
            average.mul_(self.momentum).add_(online[name], alpha=1 - self.momentum)

    @torch.no_grad()
    def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Ensemble: the element-wise larger probability of both copies takes the place of the output."""
        if not self.offline:
            return
        online = self._online(strategy)
        probabilities = strategy.mb_output.softmax(dim=1)
        kept = {name: parameter.detach().clone() for name, parameter in online.items()}
        try:
            for name, parameter in online.items():
                parameter.copy_(self.offline[name])
            offline = strategy.forward().softmax(dim=1)
        finally:
            for name, parameter in online.items():
                parameter.copy_(kept[name])
        strategy.mb_output = torch.maximum(probabilities, offline)

    def _online(self, strategy: Any) -> dict[str, torch.nn.Parameter]:
        """The shared weights: all that is trained besides heads and weights of single tasks."""
        own = ("heads.", ".tasks.task=")
        return {n: p for n, p in strategy.model.named_parameters() if not n.startswith(own[0]) and own[1] not in n}
