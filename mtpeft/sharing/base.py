"""The contract of a weight source. A source knows tasks and banks of weights; it knows nothing of methods' maths."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from mtpeft.registry import Registry
from mtpeft.sharing.bank import Bank, BankFactory, Tensors, call_mixed
from mtpeft.sharing.query import Query

SHARINGS: Registry[type[Sharing]] = Registry("sharing")
S = TypeVar("S", bound="type[Sharing]")


class Sharing(nn.Module, ABC):
    """Where a method's weights come from.

    `bank(task)` gives the weights of a task. A source whose weights are computed overrides `prepare` and `call` too.
    `isolated` says that training one task leaves every other task's weights as they are, `single_pass` that one pass
    of the backbone serves all tasks, `driven` that weights of it move by themselves, which a way of training must see to,
    `reads_query` that weights are chosen by the image: before a forward `select` gets a query of every image.
    """

    isolated: ClassVar[bool] = False
    single_pass: ClassVar[bool] = False
    driven: ClassVar[bool] = False
    reads_query: ClassVar[bool] = False

    def __init__(self, factory: BankFactory) -> None:
        """`factory` builds one freshly initialised bank. Options of a source are keyword arguments after it."""
        super().__init__()
        self.factory = factory

    def add_task(self, task: str) -> None:
        """Make room for a task."""

    def remove_task(self, task: str) -> None:
        """Forget a task."""

    @abstractmethod
    def bank(self, task: str) -> Bank:
        """The weights task `task` uses."""

    @abstractmethod
    def banks(self) -> list[Bank]:
        """Every bank, each once."""

    def modules_of(self, task: str) -> list[nn.Module]:
        """The modules whose weights the task's output depends on."""
        return [self.bank(task)]

    def own_modules(self, task: str) -> list[nn.Module]:
        """Those of them that no other task uses."""
        return self.modules_of(task) if self.isolated else []

    def fit(self, task: str, run: Callable[[Bank], None]) -> None:
        """Have `run` fit the weights that the task uses, where no other task has."""
        run(self.bank(task))

    def fold(
        self, key: str, task: str, weight: torch.Tensor | None, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Weight and bias of the layer at site `key`, with what the task uses folded in."""
        bank = self.bank(task)
        return bank.merged_with(bank.tensors(key), key, weight, bias)

    def method_weights(self, task: str | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """The method's weights, those the task uses or all, by the names it knows them by; none that the source computes."""
        for bank in self.banks() if task is None else [self.bank(task)]:
            yield from bank.method_weights()

    @property
    def members(self) -> int:
        """How many sets of weights make a prediction together; the first one is trained."""
        return 1

    def use(self, member: int) -> None:
        """Serve the weights of one member from now on."""

    def combine(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The members' outputs (B, classes, ...) as one."""
        return outputs[0]

    @property
    def needs_task(self) -> bool:
        """Whether a prediction needs to know whose task the image is."""
        return not self.single_pass

    def not_for(self, *, one_task: bool = False, at_once: bool = False, together: bool = False) -> str | None:
        """Why it cannot learn one task throughout, tasks that are all made at once, or trained together; None where it can."""
        return None

    def select(self, tasks: Sequence[str], index: torch.Tensor | None, query: Query) -> Any:
        """Where `reads_query` is set: what the images of a forward of `tasks` use; `call` finds it as it does `prepare`'s.

        `index` (B,) says whose each image is, None where all are of one task, or of all tasks alike.
        """
        raise NotImplementedError(f"{type(self).__name__}.select")

    @property
    def declares(self) -> tuple[str, ...]:
        """The names of the losses it has beside the tasks' own."""
        return ()

    def losses(self, selected: Any) -> dict[str, torch.Tensor]:
        """Scalars that training adds to the task's loss, by the names of `declares`, for what `select` gave."""
        return {}

    def by_losses(self) -> list[nn.Parameter]:
        """The weights that `losses` alone train: no feature depends on them."""
        return []

    def prepare(self, tasks: Sequence[str]) -> Any:
        """What is computed once before a forward of `tasks`; `call` finds it in its cache, under the source."""
        return None

    def chosen(self, tasks: Sequence[str]) -> list[Bank] | None:
        """The banks of the tasks, found once before a forward; `call` finds them as it does `prepare`'s.

        What then runs depends on no task's name, so that one compiled graph serves all. None where weights are computed.
        """
        return [self.bank(task) for task in tasks]

    def call(
        self,
        key: str,
        tasks: Sequence[str],
        index: torch.Tensor | None,
        inputs: Sequence[torch.Tensor],
        cache: dict[Any, Any],
    ) -> Tensors:
        """Site `key` under a selection: one task, or several with `index` (B,) saying whose each sample is."""
        banks = cache.get(self) or [self.bank(task) for task in tasks]
        if index is None or all(bank is banks[0] for bank in banks):
            return banks[0](key, *inputs)
        return call_mixed(banks[0], [bank.tensors(key) for bank in banks], index, key, inputs, cache)


def register_sharing(name: str) -> Callable[[S], S]:
    """Class decorator: registers a `Sharing`."""

    def decorate(sharing: S) -> S:
        SHARINGS.add(name, sharing)
        return sharing

    return decorate
