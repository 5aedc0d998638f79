"""What a task adds to the weights of the tasks before, and the Fisher information of it: two kinds of weights.

`start` is w, the weights before the task; `step` D, what it has added; `moving` the trained weights by which D is scaled, and
`scaled` one of them where D is scaled by so much. Names are the spaces' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.sharing.accumulated import Accumulated
from mtpeft.sharing.shared import Shared

Tensors = Mapping[str, torch.Tensor]


class Products:
    """Low-rank products of sharing `accumulated`, as weights (out, in) of the layers they are added to; D is the newest."""

    def __init__(self, manager: TaskManager) -> None:
        (self.attachment,) = manager.methods
        self.source: Any = self.attachment.weights

    def moving(self) -> dict[str, nn.Parameter]:
        """The newest up factors: a product scales with one of its factors."""
        return {key: self.source.newest.tensors(key)[up] for key, (_, up) in self.source.factors.items()}

    def scaled(self, weight: torch.Tensor, before: torch.Tensor, scale: float) -> torch.Tensor:
        """The up factor, of which D is a multiple."""
        return scale * weight

    def start(self, before: Tensors) -> dict[str, torch.Tensor]:
        """The sum of the earlier products."""
        banks = self.source.banks()[:-1]
        zero = {key: torch.zeros_like(value) for key, value in self.step(before).items()}
        return {key: sum((self._product(bank, key) for bank in banks), start=zero[key]) for key in zero}

    def step(self, before: Tensors) -> dict[str, torch.Tensor]:
        """The newest product."""
        return {key: self._product(self.source.newest, key) for key in self.source.factors}

    def squares(self, manager: TaskManager, task: str, images: torch.Tensor, loss: Any) -> dict[str, torch.Tensor]:
        """By layer: the sum over images of the squared gradient of each one's loss, from inputs and outputs of the layer."""
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

        def see(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            seen[given[0]] = (given[2].detach(), output)

        handle = self.attachment.register_forward_hook(see)
        try:
            summed = loss(manager(images, task))
        finally:
            handle.remove()
        gradients = torch.autograd.grad(summed, [output for _, output in seen.values()])
        count = len(images)
        found = {}
        for (key, (x, _)), gradient in zip(seen.items(), gradients, strict=True):
            x, gradient = (t.reshape(count, -1, t.shape[-1]).float() for t in (x, gradient))
            found[key] = torch.einsum("bno,bni->boi", gradient, x).square().sum(0)
        return found

    def _product(self, bank: Any, key: str) -> torch.Tensor:
        down, up = self.source.factors[key]
        module, tensors = bank.sites[key], bank.tensors(key)
        zero = tensors[up].new_zeros(tensors[up].shape[0], tensors[down].shape[1])
        folded: torch.Tensor = module.merged(zero, None)[0]  # with whatever scale the method has
        return folded


class Moved:
    """Weights that all tasks share, as they are; D is how far they have moved since the task began."""

    def __init__(self, manager: TaskManager) -> None:
        self.weights = {
            f"{number}.{name}": parameter
            for number, attachment in enumerate(manager.methods)
            for name, parameter in attachment.weights.named_parameters()
            if parameter.requires_grad
        }

    def moving(self) -> dict[str, nn.Parameter]:
        """All of them."""
        return self.weights

    def scaled(self, weight: torch.Tensor, before: torch.Tensor, scale: float) -> torch.Tensor:
        """As far along the way from `before` to the weight."""
        return before + scale * (weight - before)

    def start(self, before: Tensors) -> dict[str, torch.Tensor]:
        """The weights before the task."""
        return dict(before)

    def step(self, before: Tensors) -> dict[str, torch.Tensor]:
        """How far each has moved."""
        return {name: parameter - before[name] for name, parameter in self.weights.items()}

    def squares(self, manager: TaskManager, task: str, images: torch.Tensor, loss: Any) -> dict[str, torch.Tensor]:
        """The sum over images of the squared gradient of each one's loss: a backward pass for each image."""
        losses, names = loss(manager(images, task), "none"), list(self.weights)
        found = {name: torch.zeros_like(parameter) for name, parameter in self.weights.items()}
        for place in range(len(losses)):
            gradients = torch.autograd.grad(
                losses[place], list(self.weights.values()), retain_graph=place + 1 < len(losses), allow_unused=True
            )
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    found[name] += gradient.square()
        return found


def of_manager(manager: TaskManager) -> Products | Moved:
    """The weights that a task adds to; raises `ConfigError` where that is not clear."""
    if manager.own_weights:
        raise ConfigError(
            "PerturbAndMerge is for weights that a method adds, not the backbone's own: use sharing='shared'"
        )
    sources = [attachment.weights for attachment in manager.methods]
    if all(isinstance(source, Shared) for source in sources):
        return Moved(manager)
    for attachment in manager.methods:
        source, name = attachment.weights, attachment.spec.name
        if not isinstance(source, (Accumulated, Shared)):
            raise ConfigError(
                f"PerturbAndMerge takes weights that tasks add to: sharing='shared' or 'accumulated' for method {name!r}, "
                f"not {attachment.sharing_name!r}"
            )
        if isinstance(source, Accumulated):
            if len(sources) > 1:
                raise ConfigError("PerturbAndMerge takes one method of sharing 'accumulated', not several: attach one")
            if source.start is not None or not source.factors or len(source.factors) < len(attachment.selected):
                raise ConfigError(
                    f"PerturbAndMerge scales plain products of sharing 'accumulated', without magnitudes, which those of "
                    f"method {name!r} are not: sharing='shared'"
                )
    return Products(manager)


def information(space: Products | Moved, strategy: Any) -> dict[str, torch.Tensor]:
    """The diagonal empirical Fisher information of the task at hand: the mean over its training images, without augmentation,
    of the squared gradient of each one's loss. Local cross-entropy is over the task's own classes here too.
    """
    index, model = strategy.experience.current_experience, strategy.model
    manager, task = model.manager, model.task_of(index)
    data = strategy.stream[index].train
    local = strategy.local_loss and strategy.stream.kind == "class_incremental"
    own = manager.head(task).classes(strategy.stream[index].name) if local else None
    total: dict[str, torch.Tensor] = {}
    for batch in strategy.plain_batches(data):
        images, labels = batch[0].to(strategy.device), batch[1].to(strategy.device)

        def loss(output: torch.Tensor, how: str = "sum", labels: torch.Tensor = labels) -> torch.Tensor:
            if own is not None:
                output, labels = output[:, own.start : own.stop], labels - own.start
            return F.cross_entropy(output, labels, reduction=how)

        with torch.enable_grad():
            more = space.squares(manager, task, images, loss)
        total = {name: total[name] + value if name in total else value for name, value in more.items()}
    return {name: value / len(data) for name, value in total.items()}
