"""InfLoRA: each task's low-rank branch acts where the inputs of earlier tasks have nothing.

Liang and Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024 (arXiv 2404.00228), section 3.
Before a task one pass over its training images, without augmentation, gives the second moment of the inputs of every layer
that has a branch; its down matrix is computed from them (`mtpeft.continual.subspace`) and stays, the up matrix is trained,
from zero, with local cross-entropy. After the task the same pass, under the trained weights, says what it has taken. The paper
calls the down matrix B and the up matrix A, the other way round.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.continual.subspace import Basis, down_projection, grown
from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.options import Range
from mtpeft.sharing.accumulated import Accumulated

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import SupervisedPlugin

Threshold = Annotated[float, Range(above=0, at_most=1)]


class InfLoRAPlugin(SupervisedPlugin):
    """Interference-free branches, over low-rank products of sharing `accumulated`.

    `lamb` and `lame`: the share of the energy of a task's inputs that counts as taken, from the first task's to the last
    (the paper's code: 0.95 on CIFAR-100, 0.98 on ImageNet-R, and 1).
    """

    def __init__(self, lamb: Threshold = 0.95, lame: Threshold = 1.0) -> None:
        super().__init__()
        self.lamb, self.lame = lamb, lame
        #: by the layer's name: its basis, and whether that is what is taken
        self.vectors: dict[str, torch.Tensor] = {}
        self.taken: dict[str, bool] = {}
        #: tasks whose down matrices are there
        self.built = 0

    def check(self, manager: TaskManager) -> None:
        """Raise `ConfigError` where a method adds no low-rank products of each task's own."""
        if len(manager.methods) > 1:
            names = ", ".join(attachment.spec.name for attachment in manager.methods)
            raise ConfigError(
                f"InfLoRA keeps the inputs of one method's layers apart; attached are {names}: attach one"
            )
        (attachment,) = manager.methods
        source, name = attachment.weights, attachment.spec.name
        if not isinstance(source, Accumulated):
            raise ConfigError(
                f"InfLoRA adds a branch for every task: sharing='accumulated' for method {name!r}, not "
                f"{attachment.sharing_name!r}"
            )
        if source.start is not None:
            raise ConfigError("InfLoRA leaves earlier branches as they are: sharing 'accumulated' without magnitudes")
        if not source.factors or len(source.factors) < len(attachment.selected):
            raise ConfigError(f"InfLoRA computes one factor of a product of two, and method {name!r} adds none")

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Local cross-entropy from now on."""
        strategy.local_loss = True

    @torch.no_grad()
    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Before the optimiser is made: the task's down matrices, which are not trained."""
        index = strategy.experience.current_experience
        manager = strategy.model.manager
        moments = second_moments(manager, self._images(strategy)) if self.built <= index else {}
        (attachment,) = manager.methods
        source = attachment.weights
        for site in attachment.selected:
            layer, down = layer_of(site), source.newest.tensors(site.key)[source.factors[site.key][0]]
            down.requires_grad_(False)
            if layer in moments:
                down.copy_(down_projection(moments[layer], self._basis(layer), down.shape[0]))
        self.built = index + 1

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """What the task's inputs, under the trained weights, take."""
        index, tasks = strategy.experience.current_experience, len(strategy.stream)
        threshold = self.lamb + (self.lame - self.lamb) * index / tasks
        for layer, moment in second_moments(strategy.model.manager, self._images(strategy)).items():
            basis = grown(moment, self._basis(layer), threshold)
            self.vectors[layer], self.taken[layer] = basis.vectors, basis.taken

    def _basis(self, layer: str) -> Basis | None:
        return Basis(self.vectors[layer], self.taken[layer]) if layer in self.vectors else None

    def _images(self, strategy: Any) -> Iterable[torch.Tensor]:
        data = strategy.stream[strategy.experience.current_experience].train
        return (batch[0].to(strategy.device) for batch in strategy.plain_batches(data))


def layer_of(site: Site) -> str:
    """The layer a site belongs to: the rows of one layer (q, k and v of a fused projection) have the same inputs."""
    return site.path


@contextmanager
def evaluating(manager: TaskManager) -> Iterator[None]:
    """The manager in eval mode, and as it was afterwards."""
    modes = [(module, module.training) for module in manager.modules()]
    try:
        manager.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def second_moments(manager: TaskManager, images: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """By layer: the mean of x x^T (d, d), float64, over all images and tokens x (d,) that enter it, methods acting.

    The manager is in eval mode meanwhile, and in its own afterwards.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    (attachment,) = manager.methods
    first = {layer_of(site): site.key for site in reversed(attachment.selected)}
    layers = {key: layer for layer, key in first.items()}

    def see(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        key, _, x, *_ = given
        if key in layers:
            x, layer = x.flatten(0, -2).float(), layers[key]
            sums[layer] = sums.get(layer, 0) + (x.T @ x).double()
            counts[layer] = counts.get(layer, 0) + len(x)

    handle = attachment.register_forward_hook(see)
    try:
        with evaluating(manager):
            for batch in images:
                manager.features(batch, manager.tasks[-1])
    finally:
        handle.remove()
    return {layer: total / counts[layer] for layer, total in sums.items()}
