"""One method on one tiny backbone: what every conformance check starts from."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import mtpeft.sharing.bank
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.hooks.attachment import select_sites, stream_blocks
from mtpeft.manager.attach import attach
from mtpeft.manager.manager import TaskManager
from mtpeft.methods import METHODS, MethodSpec
from mtpeft.testing.backbones import IMAGE_SIZE, tiny_backbone

#: a weight source by name, or with its options
Sharing = str | Mapping[str, Any]
FRAMES = 3
#: the tasks of a case: head options by name, two classifications, a dense one, and one that reads all scales
TASKS: dict[str, dict[str, Any]] = {
    "birds": {"num_classes": 3},
    "cars": {"num_classes": 5},
    "depth": {"head": "dense_linear", "channels": 2},
    "normals": {"head": "stage_linear", "channels": 3},
}


@dataclass(frozen=True)
class Case:
    """A registered method on one anatomy of `TINY`, with options; dropout and drop path are 0 where the method has them.

    A method that sees the frames of a clip together is checked on clips, every other on images.
    """

    name: str
    anatomy: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> MethodSpec:
        """What is registered."""
        return METHODS.get(self.name)

    @property
    def all_options(self) -> dict[str, Any]:
        """The options, and what makes the config fit for checks where it has the field."""
        fields = {f.name for f in dataclasses.fields(self.spec.config)}
        ours = {"dropout": 0.0, "drop_path": 0.0, "num_frames": FRAMES}
        return {**{k: v for k, v in ours.items() if k in fields}, **self.options}

    @property
    def temporal(self) -> bool:
        """Whether the method sees the frames of a clip together."""
        return self.spec.for_clips

    @cached_property
    def scales(self) -> bool:
        """Whether the method gives heads of several scales maps of its own."""
        sites = select_sites(self.spec, self.spec.build_config(self.all_options), Anatomy(self.backbone()))
        return any(site.style == "scales" for site in sites)

    def inputs(self, count: int = 4) -> torch.Tensor:
        """Random images (count, 3, 64, 64), or clips (count, 3, T, 64, 64) where the method is for clips."""
        return clips(count) if self.temporal else images(count)

    @property
    def sharings(self) -> tuple[str, ...]:
        """The plain weight sources the method can be used with."""
        return self.spec.sharings

    def claimed(self) -> bool:
        """Whether the method finds its sites on this anatomy."""
        config = self.spec.build_config(self.options)
        try:
            anatomy = Anatomy(self.backbone())
            select_sites(self.spec, config, anatomy)
            stream_blocks(self.spec, config, anatomy)
        except ConfigError:
            return False
        return True

    def backbone(self) -> Any:
        """The tiny backbone, the same weights at every call."""
        return copy.deepcopy(_backbone(self.anatomy))

    def attach(self, backbone: nn.Module | None = None, sharing: Sharing | None = None) -> TaskManager:
        """A manager without a task."""
        return attach(self.backbone() if backbone is None else backbone, self.name, sharing=sharing, **self.all_options)

    def manager(self, sharing: Sharing | None = None, perturbed: bool = True, double: bool = False) -> TaskManager:
        """A manager with all of `TASKS`; `perturbed` moves every weight, so that nothing hides behind zeros."""
        backbone = self.backbone()
        manager = self.attach(backbone.double() if double else backbone, sharing)
        for task, head in TASKS.items():
            self.add_task(manager, task, **head)
        if perturbed:
            perturb(manager)
        return manager

    def add_task(self, manager: TaskManager, task: str, **head: Any) -> None:
        """Give the manager a task, and what the methods ask for of its data: noise of its own."""
        manager.add_task(task, **head)
        self.fit(manager, task)

    def fit(self, manager: TaskManager, task: str) -> None:
        """Fit a task to two batches of noise, other noise for every task, where a method asks for it."""
        if manager.needs_fit(task):
            manager.fit(task, self.batches(manager, task), loss=lambda output, labels: scalar(output))

    def batches(self, manager: TaskManager, task: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Training data of a task: noise of two classes."""
        make, dtype = (clips if self.temporal else images), next(manager.backbone.parameters()).dtype
        seed = 10 * sum(map(ord, task))
        return [(make(4, seed=seed + i).to(dtype), torch.tensor([0, 1, 0, 1])) for i in range(2)]

    def fail(self, what: str) -> AssertionError:
        """An error that names the case."""
        return AssertionError(f"{self.name} on {self.anatomy}: {what}")

    def require(self, truth: bool, what: str) -> None:
        """Raise `fail(what)` unless `truth`."""
        if not truth:
            raise self.fail(what)

    def close(self, found: Any, expected: Any, what: str, atol: float = 1e-5, rtol: float = 1e-4) -> None:
        """Compare tensors (nested in tuples or mappings); both tolerances 0 mean equal bit for bit."""
        try:
            torch.testing.assert_close(found, expected, atol=atol, rtol=rtol if atol else 0.0)
        except AssertionError as error:
            raise self.fail(f"{what}: {' '.join(str(error).split())}") from None


@cache
def _backbone(anatomy: str) -> nn.Module:
    return tiny_backbone(anatomy)


def images(count: int = 4, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    """Random images (count, 3, 64, 64), the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator).to(dtype)


def clips(count: int = 4, seed: int = 1) -> torch.Tensor:
    """Random clips (count, 3, T, 64, 64) with T = FRAMES."""
    return images(count * FRAMES, seed=seed).unflatten(0, (count, FRAMES)).transpose(1, 2)


@torch.no_grad()
def perturb(manager: TaskManager, std: float = 0.05, seed: int = 2) -> None:
    """Add noise to everything trainable, the backbone's own weights included where a method trains them."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in manager.trainable_parameters():
        parameter.add_(std * torch.randn(parameter.shape, generator=generator).to(parameter))


def training(manager: TaskManager) -> TaskManager:
    """The manager in train mode, without the randomness (drop path) of a backbone that is trained itself.

    Batch norms use their running statistics, taken here: checks set a sample beside itself in other company.
    """
    manager.train()
    manager.backbone.eval()
    norms = [
        module
        for part in (manager.attachments, manager.heads)
        for module in part.modules()
        if isinstance(module, _BatchNorm)
    ]
    if norms:
        with torch.no_grad():
            for task in manager.tasks:
                manager(images(dtype=next(manager.parameters()).dtype), task)
    for norm in norms:
        norm.eval()
    return manager


def gradients(manager: TaskManager, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of `loss` by parameter name, for every parameter that got one."""
    manager.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in manager.named_parameters() if p.grad is not None}


def scalar(output: torch.Tensor) -> torch.Tensor:
    """A loss that weighs every element differently: mean squares alone would hide mixed-up samples."""
    generator = torch.Generator().manual_seed(output.shape[-1])
    return (
        (output * torch.rand(output.shape[1:], generator=generator).to(output))
        .mean(dim=tuple(range(1, output.ndim)))
        .sum()
    )


@contextmanager
def mixed_path(slice_above: float) -> Iterator[None]:
    """Force one way of running mixed batches: 0 slices the batch by task, infinity gathers weights per sample."""
    before = mtpeft.sharing.bank.SLICE_ABOVE
    mtpeft.sharing.bank.SLICE_ABOVE = slice_above
    try:
        yield
    finally:
        mtpeft.sharing.bank.SLICE_ABOVE = before


class Snapshot:
    """Everything of a backbone that attaching and detaching must leave as it was."""

    def __init__(self, backbone: nn.Module, case: Case) -> None:
        """Copy weights, flags and attribute names, and note the outputs."""
        self.case = case
        self.weights = {k: v.clone() for k, v in backbone.state_dict().items()}
        self.state = _state(backbone)
        self.outputs = _features(backbone)

    def compare(self, backbone: nn.Module, when: str) -> None:
        """Raise `AssertionError` that says what differs `when`."""
        self.case.close(dict(backbone.state_dict()), self.weights, f"weights {when}", atol=0)
        state = _state(backbone)
        for path, before in self.state.items():
            self.case.require(
                state.get(path) == before, f"{path or 'the backbone'} {when} is {state.get(path)}, was {before}"
            )
        self.case.require(state.keys() == self.state.keys(), f"modules or parameters appeared {when}")
        self.case.close(_features(backbone), self.outputs, f"outputs {when}", atol=0)


def _state(backbone: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for path, module in backbone.named_modules():
        hooks = {name: len(value) for name, value in vars(module).items() if name.endswith("_hooks") and value}
        state[path] = (type(module), module.training, sorted(vars(module)), hooks)
    state.update({f"{name} (parameter)": (p.requires_grad, id(p)) for name, p in backbone.named_parameters()})
    return state


@torch.no_grad()
def _features(backbone: Any) -> torch.Tensor:
    modes = [(module, module.training) for module in backbone.modules()]
    try:
        return backbone.eval().forward_features(images(2))
    finally:
        for module, mode in modes:
            module.training = mode
