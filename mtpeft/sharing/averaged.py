"""One set of weights for all tasks and a moving average of it, whose predictions are taken together.

The two copies of LAE (Gao et al., ICCV 2023, sections 3.3 and 3.4): the online weights are trained, the offline ones
follow them by momentum. When a prediction is made the larger of both probabilities counts. What sets the average going and
moves it is the way of training; the average is saved and loaded as all other weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import nn

from mtpeft.sharing.bank import Bank, BankFactory
from mtpeft.sharing.base import Sharing, register_sharing


@register_sharing("averaged")
class Averaged(Sharing):
    """A bank that is trained (member 0), and its average (member 1), which is there once `begin` was called."""

    single_pass: ClassVar[bool] = True
    driven: ClassVar[bool] = True

    def __init__(self, factory: BankFactory) -> None:
        """`factory` builds the bank."""
        super().__init__(factory)
        drawn_from = torch.get_rng_state()
        self.common = factory()
        with torch.random.fork_rng(devices=[]):  # drawn once: training starts as that of shared weights
            torch.set_rng_state(drawn_from)
            self.average = factory()
        self.average.load_state_dict(self.common.state_dict())
        self.average.to_buffers()
        self.begun: torch.Tensor
        self.register_buffer("begun", torch.tensor(False))
        self._member = 0

    def bank(self, task: str) -> Bank:
        """The trained bank, or within `use(1)` its average."""
        return self.average if self._member else self.common

    def banks(self) -> list[Bank]:
        """Both."""
        return [self.common, self.average]

    def modules_of(self, task: str) -> list[nn.Module]:
        """Both banks, whatever the task."""
        return [self.common, self.average]

    def fit(self, task: str, run: Callable[[Bank], None]) -> None:
        """The average has what the trained weights are fitted to."""
        run(self.common)
        self.average.load_state_dict(self.common.state_dict())

    @property
    def members(self) -> int:
        """Two, once the average has begun."""
        return 2 if bool(self.begun) else 1

    def use(self, member: int) -> None:
        """Serve the weights of one member from now on."""
        self._member = member

    def combine(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Scores (B, classes, ...) of both members -> the logarithm of the larger of their probabilities."""
        return torch.stack([output.log_softmax(1) for output in outputs]).amax(0)

    @torch.no_grad()
    def begin(self) -> None:
        """Start the average as a copy of the trained weights; nothing if it has begun."""
        if not self.begun:
            self._copy()
            self.begun.fill_(True)

    @torch.no_grad()
    def accumulate(self, momentum: float) -> None:
        """average <- momentum * average + (1 - momentum) * trained; after `begin`, which starts it."""
        for average, trained in self._pairs():
            average.mul_(momentum).add_(trained, alpha=1 - momentum)

    @torch.no_grad()
    def _copy(self) -> None:
        for average, trained in self._pairs():
            average.copy_(trained)

    def _pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(average, trained), of every weight that is trained."""
        own = dict(self.average.named_buffers())
        return [(own[name], parameter) for name, parameter in self.common.named_parameters()]
