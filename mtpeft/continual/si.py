"""Synaptic intelligence, with the copies that Avalanche's own leaves out.

Zenke, Poole and Ganguli, "Continual Learning Through Synaptic Intelligence", ICML 2017: the path integral of the gradient
along a task's training, over the squared distance it went, weighs how a weight is held. Avalanche keeps the weights of
before a step by `param.detach().cpu().flatten()`, which on a CPU is the weight itself: every distance is 0 then, and so is
the penalty.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import SynapticIntelligencePlugin


class SynapticIntelligence(SynapticIntelligencePlugin):
    """Avalanche's, which keeps copies of the weights on any device."""

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The weights the task starts from."""
        super().before_training_exp(strategy, **kwargs)
        _own(self.ewc_data[0])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """The weights the step starts from."""
        super().before_training_iteration(strategy, **kwargs)
        _own(self.syn_data["old_theta"])

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The task's importances."""
        with warnings.catch_warnings():  # numpy's square of a tensor
            warnings.simplefilter("ignore", DeprecationWarning)
            super().after_training_exp(strategy, **kwargs)


def _own(kept: Mapping[str, Any]) -> None:
    """Let what is kept share no memory with the weights."""
    for value in kept.values():
        value.data = value.data.clone()
