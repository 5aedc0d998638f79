"""The training of a supernet: at every step another subnet of an elastic method, by its leading rows."""

from __future__ import annotations

import warnings
from random import Random
from typing import Annotated, Any

from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.options import Count, Length
from mtpeft.search import Elastic, Space

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import SupervisedPlugin

Listed = Annotated[tuple[Count, ...], Length(at_least=1)]


class SupernetPlugin(SupervisedPlugin):
    """Draws the subnet of each step, uniformly; evaluations are of the whole supernet.

    `sizes` and `depths` are those of the space (`depths` None: a quarter, a half, three quarters and all of the blocks).
    A draw is a function of seed, experience and step: a run that goes on draws what it would have drawn. Parts that a draw
    leaves out of a block get no gradient and stay as they are; of those it cuts, the rows behind get one of zeros.
    """

    def __init__(self, sizes: Listed, depths: Listed | None = None) -> None:
        super().__init__()
        self.sizes, self.depths = tuple(sizes), None if depths is None else tuple(depths)
        self.elastic: Elastic
        self.space: Space

    def check(self, manager: TaskManager) -> None:
        """Raise `ConfigError` where no attached method is elastic, or the space does not fit it."""
        self.elastic = Elastic(manager)
        self.space = self.elastic.space(self.sizes, self.depths)

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Refuse a compiled graph, which would be made anew for every subnet."""
        if strategy.training_settings.compile:
            raise ConfigError("plugin 'Supernet' has another network at every step: leave out training.compile")

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Another subnet."""
        step = strategy.clock.train_exp_iterations
        rng = Random(f"{strategy.seed}, {strategy.experience.current_experience}, {step}")
        self.elastic.use(self.space.draw(rng))

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """The whole supernet."""
        self.elastic.use(None)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The whole supernet."""
        self.elastic.use(None)
