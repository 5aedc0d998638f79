"""One set of weights for all tasks and a small one of each task's own beside it, served by one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.func import functional_call, vmap

from mtpeft.methods.base import Taps
from mtpeft.sharing.bank import Bank, BankFactory, Tensors
from mtpeft.sharing.base import Sharing, register_sharing


@register_sharing("split")
class Split(Sharing):
    """Methods with a task stream: the shared bank feeds the backbone, task streams leave it at the stage ends.

    Tokens that each task has for itself (`SiteModule.of_tasks`) stand side by side in the one pass, so that all of them
    are part of what any task sees: they are among the weights of every task, and belong to none alone.
    """

    single_pass: ClassVar[bool] = True

    def __init__(self, factory: BankFactory) -> None:
        """`factory` builds the shared bank at once, and a task's streams and tokens when the task is added."""
        super().__init__(factory)
        self.common = factory()
        self.tasks = nn.ModuleDict()
        self.own = {site.key for site in factory.of_tasks}
        self.joined = nn.ModuleDict()

    def add_task(self, task: str) -> None:
        """Streams of the task's own, and its tokens behind those of all others."""
        self.tasks[f"task={task}"] = self.factory.streams()
        if self.own:
            self.joined[f"of={task}"] = self.factory.own()

    def remove_task(self, task: str) -> None:
        """Drop the task's streams and tokens."""
        del self.tasks[f"task={task}"]
        if self.own:
            del self.joined[f"of={task}"]

    def bank(self, task: str) -> Bank:
        """The shared bank."""
        return self.common

    def banks(self) -> list[Bank]:
        """The shared bank alone."""
        return [self.common]

    def modules_of(self, task: str) -> list[nn.Module]:
        """The shared bank, the tokens of all tasks and the task's streams."""
        return [self.common, *self.joined.values(), *self.own_modules(task)]

    def own_modules(self, task: str) -> list[nn.Module]:
        """The task's streams."""
        return [self.tasks[f"task={task}"]]

    def method_weights(self, task: str | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the shared bank, of all tokens, and of the streams."""
        yield from super().method_weights(task)
        for own in self.joined.values():
            for module in own.children():
                yield from module.named_parameters()
        for streams in self.tasks.values() if task is None else self.own_modules(task):
            for stream in streams.children():
                yield from stream.named_parameters(prefix="stream")

    def call(
        self,
        key: str,
        tasks: Sequence[str],
        index: torch.Tensor | None,
        inputs: Sequence[torch.Tensor],
        cache: dict[Any, Any],
    ) -> Tensors:
        """Site `key` of the shared bank; where tasks have their own, what all of them give, along the axis of tokens."""
        if key not in self.own:
            return super().call(key, tasks, index, inputs, cache)
        modules: list[Any] = [own[key] for own in self.joined.values()]  # type: ignore[index]
        return torch.cat([module(*inputs, **self.common.common) for module in modules], dim=1)

    def offsets(self, block: int, tasks: tuple[str, ...], taps: Taps) -> torch.Tensor:
        """What each task's features have more than the shared ones after `block`: (T, B, ...), one batched call."""
        streams = [self.tasks[f"task={task}"][str(block)] for task in tasks]  # type: ignore[index]
        own, queries = self._own(tasks), self._queries(tasks, taps)
        if len(streams) == 1:
            one_task = {name: tensor[0] for name, tensor in own.items()}
            return streams[0](replace(taps, own=one_task, queries=None if queries is None else queries[0])).unsqueeze(0)
        named = [{**dict(stream.named_parameters()), **dict(stream.named_buffers())} for stream in streams]
        weights = {name: torch.stack([tensors[name] for tensors in named]) for name in named[0]}

        def one(
            weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor], queries: torch.Tensor | None
        ) -> torch.Tensor:
            return functional_call(streams[0], weights, (replace(taps, own=own, queries=queries),))

        dims = 0, 0, None if queries is None else 0
        return vmap(one, in_dims=dims, randomness="different")(weights, own, queries)

    def _own(self, tasks: Sequence[str]) -> dict[str, torch.Tensor]:
        """Each task's weights at the sites it has for itself, (T, ...), by kind of site and name."""
        kinds = {site.key: site.kind for site in self.factory.of_tasks}
        joined: list[Any] = [self.joined[f"of={task}"] for task in tasks] if self.own else []
        found = [
            {f"{kinds[key]}.{name}": p for key, module in own.items() for name, p in module.named_parameters()}
            for own in joined
        ]
        return {name: torch.stack([weights[name] for weights in found]) for name in found[0]} if found else {}

    def _queries(self, tasks: Sequence[str], taps: Taps) -> torch.Tensor | None:
        """What each task's own tokens ask, (T, B, heads, p, head_dim), among those of all tasks; None without tokens."""
        if taps.queries is None:
            return None
        every = list(self.joined)
        parts = taps.queries.unflatten(2, (len(every), -1)).unbind(2)
        return torch.stack([parts[every.index(f"of={task}")] for task in tasks])
