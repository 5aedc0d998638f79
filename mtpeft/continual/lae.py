"""LAE: two copies of the shared weights, one trained, one its moving average, and their ensemble at test time.

Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient Tuning", ICCV 2023, sections 3.2 to
3.4. The online weights are trained with local cross-entropy; from the second task on they stay frozen for the first
epochs while the new head learns (calibrated learning speed, together with the trained scales of `learnable_scale` and
`calibrated` prefixes). The offline weights start as a copy when the second task begins and follow by momentum after every
step: off <- a off + (1 - a) on. Both copies, and the prediction that takes the larger of their softmax probabilities over
all classes seen, are those of sharing `averaged`: a saved model has them, and predicts so wherever it is loaded.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.sharing.averaged import Averaged

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import SupervisedPlugin


class LAEPlugin(SupervisedPlugin):
    """Learning - accumulation - ensemble, over any attached method with weights of sharing `averaged`.

    `momentum` a; `frozen_epochs`: epochs at the start of every task but the first in which only heads learn (the paper: 3
    of 5 on CIFAR-100, 30 of 50 on ImageNet-R).
    """

    def __init__(self, momentum: float = 0.9999, frozen_epochs: int = 0) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ConfigError(f"LAE: momentum is {momentum}, expected 0 <= momentum < 1")
        self.momentum, self.frozen_epochs = momentum, frozen_epochs

    def check(self, manager: TaskManager) -> None:
        """Raise `ConfigError` where a method's weights have no average."""
        for attachment in manager.methods:
            if not isinstance(attachment.weights, Averaged):
                raise ConfigError(
                    f"LAE keeps two copies of the weights that all tasks share: sharing='averaged' for method "
                    f"{attachment.spec.name!r}, not {attachment.sharing_name!r}"
                )

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Local cross-entropy from now on."""
        strategy.local_loss = True

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The second task starts: the offline copy comes to be."""
        if strategy.experience.current_experience > 0:
            for source in self._sources(strategy):
                source.begin()

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """While the online weights are frozen their gradients are dropped, so that the optimiser skips them."""
        if strategy.experience.current_experience > 0 and strategy.clock.train_exp_epochs < self.frozen_epochs:
            for source in self._sources(strategy):
                for parameter in source.parameters():
                    parameter.grad = None

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Accumulation, after every optimiser step, from the second task on."""
        if strategy.experience.current_experience > 0:
            for source in self._sources(strategy):
                source.accumulate(self.momentum)

    def _sources(self, strategy: Any) -> list[Averaged]:
        return [a.weights for a in strategy.model.manager.methods if isinstance(a.weights, Averaged)]
