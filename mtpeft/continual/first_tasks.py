"""Weights that learn in the first tasks alone; what comes later is classified by features they give."""

from __future__ import annotations

import warnings
from typing import Any

from mtpeft.options import WholeNumber

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import SupervisedPlugin


class FirstTasks(SupervisedPlugin):
    """Later tasks have no step of training: a classifier learns them from features (`stream.head.classifier`).

    `number` 1: what APER and RanPAC call their first session. 0: nothing is ever trained (SimpleCIL).
    """

    def __init__(self, number: WholeNumber = 1) -> None:
        super().__init__()
        self.number = number

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """End the training of a later task before its first step."""
        if strategy.experience.current_experience >= self.number:
            strategy.stop_training()
