"""A set of weights for every task as it comes, all of which act side by side; only the newest is trained.

What continual learning with low-rank branches has in common (InfLoRA, CVPR 2024; `SD-LoRA`, ICLR 2025; `O-LoRA`): task t adds a
set of its own to those of the tasks before, which stay as they are, and a forward uses all of them, whatever the task.
How sets stand beside each other the method says (`SiteModule.beside`): ranks join, hidden units join, prompts stand in a
row. A site runs once, at the cost of one set of t times the size.

With `magnitudes` (Wu et al., "SD-LoRA", ICLR 2025, arXiv 2501.13198, section 3) the products of earlier tasks are directions:
each is divided by the Frobenius norms of both its factors, and a scalar for each task, one for the whole network, multiplies
it. All scalars are trained with every task, and set anew when one begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.func import functional_call

from mtpeft.errors import ConfigError
from mtpeft.options import Positive
from mtpeft.sharing.bank import Bank, BankFactory, Tensors
from mtpeft.sharing.base import Sharing, register_sharing
from mtpeft.sharing.beside import axes_of, factors_of, side_by_side


@register_sharing("accumulated")
class Accumulated(Sharing):
    """One bank per task, in the order of the tasks; every task uses all of them, and the newest one is trained."""

    single_pass: ClassVar[bool] = True

    def __init__(self, factory: BankFactory, magnitudes: Positive | None = None) -> None:
        """`magnitudes`: earlier products are directions, whose trained scalars start at this (SD-LoRA's code: 0.8).

        Raises `ConfigError` for a method that does not say how sets of its weights stand beside each other, and with
        `magnitudes` for one whose weights are no product of two factors.
        """
        super().__init__(factory)
        self.start = magnitudes
        name = factory.spec.name
        if factory.constants is not None:
            raise ConfigError(
                f"sharing 'accumulated': method {name!r} has frozen weights beside its own, which stand for one set alone"
            )
        with torch.device("meta"):  # its sizes alone
            probe = factory()
        self.axes: dict[str, dict[str, int | None]] = {}
        self.factors: dict[str, tuple[str, str]] = {}
        for key in probe.sites:
            axes = axes_of(probe, key)
            if axes is None:
                raise ConfigError(
                    f"sharing 'accumulated': method {name!r} does not say how several sets of its weights act as one "
                    f"(SiteModule.beside) at {key}; use a method that does, such as lora"
                )
            self.axes[key] = axes
            if (found := factors_of(probe, key)) is not None and factory.spec.folds:
                self.factors[key] = found
            elif magnitudes is not None:
                raise ConfigError(
                    f"sharing 'accumulated': magnitudes are for products of two factors, which method {name!r} is not at {key}"
                )
        self.joined = nn.ModuleDict()  # not below "task=...": what a task adds acts in all of them
        self.magnitudes = nn.ParameterDict()

    def add_task(self, task: str) -> None:
        """A new bank beside the others, which are frozen."""
        bank = self.factory()
        for earlier in self.joined.values():
            earlier.requires_grad_(False)
        self.joined[f"of={task}"] = bank
        if self.start is not None:
            self.magnitudes[f"of={task}"] = nn.Parameter(torch.empty(()))
            for scalar in self.magnitudes.values():
                nn.init.constant_(scalar, self.start)

    def remove_task(self, task: str) -> None:
        """Drop the task's bank; the newest of those that are left is trained from now on."""
        del self.joined[f"of={task}"]
        if self.start is not None:
            del self.magnitudes[f"of={task}"]
        if len(self.joined):
            self.newest.requires_grad_(True)

    def not_for(self, *, one_task: bool = False, at_once: bool = False, together: bool = False) -> str | None:
        """Weights come with a task, when the ones before it are trained."""
        if one_task or at_once or together:
            return (
                "each task brings weights as it comes, which a class_incremental stream alone tells it: sharing='shared' or "
                "'per_task'"
            )
        return None

    @property
    def newest(self) -> Bank:
        """The bank that is trained."""
        return self.banks()[-1]

    def bank(self, task: str) -> Bank:
        """The bank that came with the task."""
        return self.joined[f"of={task}"]  # type: ignore[return-value]

    def banks(self) -> list[Bank]:
        """All banks, the newest last."""
        return list(self.joined.values())  # type: ignore[arg-type]

    def modules_of(self, task: str) -> list[nn.Module]:
        """All banks and their magnitudes, whatever the task."""
        return [*self.banks(), self.magnitudes]

    def method_weights(self, task: str | None = None) -> Any:
        """Those of all banks, whatever the task."""
        return super().method_weights()

    def chosen(self, tasks: Sequence[str]) -> None:
        """None: what acts is made of all banks."""

    def weights(self, key: str) -> dict[str, torch.Tensor]:
        """What acts at site `key`: the tensors of all banks as those of one, by the names of `Bank.tensors`."""
        banks = self.banks()
        sets = [bank.tensors(key) for bank in banks]
        if self.start is not None:
            sets = [self._scaled(key, own, place) for place, own in enumerate(sets)]
        return sets[0] if len(sets) == 1 else side_by_side(self.axes[key], sets)

    def call(
        self,
        key: str,
        tasks: Sequence[str],
        index: torch.Tensor | None,
        inputs: Sequence[torch.Tensor],
        cache: dict[Any, Any],
    ) -> Tensors:
        """Site `key` under the weights of all banks, whatever the tasks."""
        newest, weights = self.newest, self.weights(key)
        if torch.compiler.is_compiling():
            return functional_call(newest, weights, (key, *inputs), tie_weights=False)
        return newest.call_with(weights, key, *inputs)

    def fold(
        self, key: str, task: str, weight: torch.Tensor | None, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """A weight with all banks folded in."""
        return self.newest.merged_with(self.weights(key), key, weight, bias)

    def _scaled(self, key: str, own: Mapping[str, torch.Tensor], place: int) -> dict[str, torch.Tensor]:
        """A bank's factors times its magnitude; those before the newest are divided by the product of their norms."""
        scalar = list(self.magnitudes.values())[place]
        down, up = self.factors[key]
        if place < len(self.joined) - 1:
            norms = own[down].norm() * own[up].norm()
            scalar = scalar / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        return {**own, up: own[up] * scalar}
