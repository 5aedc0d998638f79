"""One backbone for all tasks, whose weights of each task are inputs: a graph that swaps tasks from sample to sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from mtpeft.errors import ConfigError
from mtpeft.exports.spelled import Spelled
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.runtime import Selection
from mtpeft.manager.features import apply_head, extract
from mtpeft.manager.manager import TaskManager
from mtpeft.manager.merging import as_linear
from mtpeft.sharing.bank import Bank, Tensors, call_each
from mtpeft.sharing.base import Sharing
from mtpeft.sharing.generated import Generated
from mtpeft.sharing.per_task import PerTask
from mtpeft.sharing.shared import Shared

#: the name of the selection under which weights are those handed over
GIVEN = "given"


class Given(Sharing):
    """Weights that come with the batch: `handed`, by name, with a leading axis of one set per sample."""

    def __init__(self, attachment: Attachment) -> None:
        """The site modules are those of a fresh bank."""
        super().__init__(attachment.factory)
        self.template = attachment.factory().eval().requires_grad_(False)
        self.handed: dict[str, torch.Tensor] = {}

    def bank(self, task: str) -> Bank:
        """The template: its weights are never used."""
        return self.template

    def banks(self) -> list[Bank]:
        """The template alone."""
        return [self.template]

    def call(
        self,
        key: str,
        tasks: Sequence[str],
        index: torch.Tensor | None,
        inputs: Sequence[torch.Tensor],
        cache: dict[Any, Any],
    ) -> Tensors:
        """Site `key`, every sample under its own weights."""
        assert index is not None
        weights = {name: self.handed[name] for name in self.template.tensors(key)}
        split = [x.unflatten(0, (index.shape[0], -1)) for x in inputs]
        with Spelled():
            return call_each(self.template, weights, key, inputs, split)


class Trunk(nn.Module):
    """Images (B, C, H, W) or clips, and for each of `names` one weight per sample (B, ...), to outputs (B, ...).

    Logits of tasks with fewer classes than others have columns behind their own that mean nothing.
    """

    def __init__(self, manager: TaskManager, tasks: Sequence[str]) -> None:
        """`manager` is changed: give a copy. Raises `ConfigError` for sharings and heads that have no weights to hand over."""
        super().__init__()
        for attachment in manager.methods:
            _plain_or_refused(attachment, manager.tasks)
        self.head = _heads(manager, tasks)
        self.own = {task: {**_weights(manager, task), **self.head.weights(manager.head(task))} for task in tasks}
        self.names = list(self.own[tasks[0]])
        for attachment in manager.methods:
            if isinstance(attachment.weights, PerTask):
                attachment.weights = Given(attachment)
        self.manager = manager

    def stacked(self, tasks: Iterable[str]) -> list[torch.Tensor]:
        """The weights of a batch whose samples are for `tasks`, in the order of `names`."""
        chosen = list(tasks)
        return [torch.stack([self.own[task][name] for task in chosen]) for name in self.names]

    def forward(self, images: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        """Outputs (B, ...)."""
        handed = dict(zip(self.names, weights, strict=True))
        for position, attachment in enumerate(self.manager.methods):
            if isinstance(attachment.weights, Given):
                attachment.weights.handed = _below(f"method{position}", handed)
        selection = Selection((GIVEN,), torch.arange(images.shape[0], device=images.device))
        features = extract(self.manager, images, selection, (self.head.reads,))
        return self.head(features, _below("head", handed))


class _LinearHeads(nn.Module):
    """Heads that are one linear map each: weights (classes, C) and biases, filled up with zeros to the most classes."""

    reads = "pooled"

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def weights(self, head: nn.Module) -> dict[str, torch.Tensor]:
        """What the graph is handed for this head."""
        linear = as_linear(head)
        assert linear is not None
        weight, bias = linear
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        missing = self.classes - len(weight)
        return {"head.weight": F.pad(weight, (0, 0, 0, missing)), "head.bias": F.pad(bias, (0, missing))}

    def forward(self, features: dict[str, Any], weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, classes)."""
        return torch.einsum("boc,bc->bo", weights["weight"], features["pooled"]) + weights["bias"]


class _SameHeads(nn.Module):
    """Heads of one form: the same modules and sizes."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.reads = head, getattr(head, "reads", "pooled")

    def weights(self, head: nn.Module) -> dict[str, torch.Tensor]:
        """What the graph is handed for this head."""
        return {f"head.{name}": tensor.detach() for name, tensor in head.state_dict().items()}

    def forward(self, features: dict[str, Any], weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """Each sample by its own head."""
        size = features["size"]

        def one(weights: dict[str, torch.Tensor], read: Any) -> torch.Tensor:
            single = {self.reads: tree_map(lambda tensor: tensor.unsqueeze(0), read), "size": size}
            named = {f"head.{name}": tensor for name, tensor in weights.items()}
            return functional_call(_Applied(self.head), named, (single,)).squeeze(0)

        with Spelled():
            return vmap(one, randomness="different")(weights, features[self.reads])


class _Applied(nn.Module):
    """A head called with all features, as a module."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: dict[str, Any]) -> torch.Tensor:
        """The head's output."""
        output: torch.Tensor = apply_head(self.head, features)
        return output


def _plain_or_refused(attachment: Attachment, tasks: Sequence[str]) -> None:
    """Turn generated weights into plain ones; raise `ConfigError` for sources of another kind."""
    source = attachment.weights
    if isinstance(source, Generated):
        attachment.to_per_task(tasks)
    elif not isinstance(source, (PerTask, Shared)) and attachment.selected:
        raise ConfigError(
            f"sharing {attachment.sharing_name!r} (method {attachment.spec.name!r}) has no weights of a task that a graph could "
            "be handed; leave out --adapters separate and export each task by itself"
        )


def _heads(manager: TaskManager, tasks: Sequence[str]) -> Any:
    heads = {task: manager.head(task) for task in tasks}
    linear = {task: as_linear(head) for task, head in heads.items()}
    if all(found is not None for found in linear.values()):
        return _LinearHeads(max(len(found[0]) for found in linear.values() if found is not None))
    first = heads[tasks[0]]
    for task, head in heads.items():
        if repr(head) != repr(first) or _sizes(head) != _sizes(first):
            raise ConfigError(
                f"the heads of tasks {tasks[0]!r} and {task!r} differ in form; one graph takes linear heads, or heads of one "
                "form: choose among the tasks with --task"
            )
    return _SameHeads(first)


def _sizes(head: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}


def _weights(manager: TaskManager, task: str) -> dict[str, torch.Tensor]:
    """What is the task's own in each method, by name."""
    found = {}
    for position, attachment in enumerate(manager.methods):
        if isinstance(attachment.weights, PerTask):
            bank = attachment.weights.bank(task)
            for key in bank.sites:
                found.update({f"method{position}.{name}": t.detach() for name, t in bank.tensors(key).items()})
    return found


def _below(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
