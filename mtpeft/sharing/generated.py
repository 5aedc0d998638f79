"""Weights made by a hypernetwork from an embedding of the task and one of the layer.

Mahabadi et al., "Parameter-efficient Multi-task Fine-tuning for Transformers via Shared Hypernetworks", ACL 2021
(arXiv 2106.04489), section 2: z = MLP([task; layer]), and the weights of a layer are a function of z.

Here a layer is a site. Sites of one kind whose weights have the same shape share one generator per weight, so a pyramid
has one per stage width and position. Any method's weights can be generated, unless they are
at model level or learn at a rate of their own: what is trained are the generators, whose weights decay as their own shapes say.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.errors import ConfigError
from mtpeft.options import Count
from mtpeft.sharing.bank import Bank, BankFactory, Tensors, call_mixed
from mtpeft.sharing.base import Sharing

#: task -> site -> name of a weight -> the generated weight
Prepared = dict[str, dict[str, dict[str, torch.Tensor]]]
Shape = tuple[int, ...]


class Vector(nn.Module):
    """A learned embedding (n,), normal with standard deviation 1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(size))


class Generator(nn.Module, ABC):
    """Makes one kind of weight for the layers of a group from their embeddings."""

    def __init__(self, shapes: Sequence[Shape], start: float | None, dim: int, variance: float, **options: Any) -> None:
        """`shapes` one per layer; `start`: the standard deviation to begin with, None for zeros.

        `dim` is the size of z, `variance` that of its entries at the start.
        """
        super().__init__()

    @abstractmethod
    def forward(self, z: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """z (T, L, dim) for the layers with these positions in the group -> L tensors (T, *shape)."""


class Generated(Sharing):
    """A source that computes the weights of all tasks asked for in one batch; subclasses say how one group is made."""

    generator: ClassVar[type[Generator]]

    def __init__(
        self,
        factory: BankFactory,
        embedding_dim: Count = 64,
        hidden_dim: Count = 64,
        layer_norm: bool = False,
        **options: Any,
    ) -> None:
        """`embedding_dim` of the task and layer vectors and of z, `hidden_dim` of the projection between them.

        `layer_norm`: z is normalised before anything is made of it.
        """
        super().__init__(factory)
        self.template = factory()
        if self.template.model is not None:
            raise ConfigError(f"{factory.spec.name!r} has weights at model level; they cannot be generated per layer")
        initial = {site.key: _initial(self.template, site.key) for site in factory.sites}
        _check_method(factory, self.template)
        self.layers = nn.ModuleDict({site.key: Vector(embedding_dim) for site in factory.sites})
        self.tasks = nn.ModuleDict()
        self.project = nn.Sequential(
            nn.Linear(2 * embedding_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, embedding_dim),
            *([nn.LayerNorm(embedding_dim, eps=1e-6)] if layer_norm else []),
        )
        # of an entry of z: embeddings of variance 1 leave two linear layers of torch's own initialisation and a ReLU with 1 / 18
        variance = 1.0 if layer_norm else 1 / 18
        self.embedding_dim = embedding_dim
        self.generators = nn.ModuleDict()
        self.groups: dict[str, list[tuple[str, str]]] = {}  # name of a generator -> its (site, weight) in order
        kinds = {site.key: site.kind for site in factory.sites}
        for key, tensors in initial.items():
            for name, tensor in tensors.items():
                self.groups.setdefault(self.group_of(kinds[key], name[len(f"sites.{key}.") :], tensor), []).append(
                    (key, name)
                )
        for group, members in self.groups.items():
            own = [initial[key][name] for key, name in members]
            self.generators[group] = self.generator(
                [tuple(t.shape) for t in own], _spread(own), embedding_dim, variance, **options
            )
        self.offsets = {key: {name: _constant(t) for name, t in tensors.items()} for key, tensors in initial.items()}
        self.places = {
            (key, name): (group, position)
            for group, members in self.groups.items()
            for position, (key, name) in enumerate(members)
        }
        _empty(self.template)

    def group_of(self, kind: str, weight: str, tensor: torch.Tensor) -> str:
        """The name of the group a weight belongs to: sites of one kind and equal shapes."""
        return f"{kind}_{weight}_{'x'.join(map(str, tensor.shape)) or '1'}".replace(".", "-")

    def add_task(self, task: str) -> None:
        """An embedding of the task's own."""
        self.tasks[f"task={task}"] = Vector(self.embedding_dim)

    def remove_task(self, task: str) -> None:
        """Drop the task's embedding."""
        del self.tasks[f"task={task}"]

    def modules_of(self, task: str) -> list[nn.Module]:
        """Everything but the other tasks' embeddings."""
        return [self.layers, self.project, self.generators, *self.own_modules(task)]

    def own_modules(self, task: str) -> list[nn.Module]:
        """The task's embedding."""
        return [self.tasks[f"task={task}"]]

    def bank(self, task: str) -> Bank:
        """A plain bank that holds what is generated for the task now; changing it changes nothing here."""
        reference = next(self.project.parameters())
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            bank, weights = self.factory().to(reference.device, reference.dtype), self.prepare([task])[task]
            for key in weights:
                own = bank.tensors(key)
                for name, value in weights[key].items():
                    own[name].copy_(value)
        return bank

    def banks(self) -> list[Bank]:
        """A plain bank for every task."""
        return [self.bank(task.removeprefix("task=")) for task in self.tasks]

    def method_weights(self, task: str | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """None: all that is trained is the source's own."""
        return iter(())

    def prepare(self, tasks: Sequence[str]) -> Prepared:
        """The weights of all sites for `tasks`: every generator runs once for all tasks and layers."""
        return self._generate(tasks, list(self.layers))

    def chosen(self, tasks: Sequence[str]) -> None:
        """None: `prepare` has all there is."""

    def call(
        self,
        key: str,
        tasks: Sequence[str],
        index: torch.Tensor | None,
        inputs: Sequence[torch.Tensor],
        cache: dict[Any, Any],
    ) -> Tensors:
        """Site `key` under the generated weights, made now where the forward did not prepare them."""
        prepared: Prepared = cache.get(self) or self._generate(tasks, [key])
        sources = [prepared[task][key] for task in tasks]
        if buffers := self.template.tensors(key):
            fixed = {name: tensor for name, tensor in buffers.items() if tensor is not None}
            sources = [{**fixed, **weights} for weights in sources]
        if index is None or len(tasks) == 1:
            return self.template.call_with(sources[0], key, *inputs)
        return call_mixed(self.template, sources, index, key, inputs, cache)

    def _generate(self, tasks: Sequence[str], keys: Sequence[str]) -> Prepared:
        """Weights of the sites `keys` for `tasks`."""
        rows = {key: row for row, key in enumerate(keys)}
        task = torch.stack([self.tasks[f"task={t}"].vector for t in tasks])  # type: ignore[misc]
        layer = torch.stack([self.layers[key].vector for key in keys])  # type: ignore[misc]
        pairs = torch.cat([task.unsqueeze(1).expand(-1, len(keys), -1), layer.expand(len(tasks), -1, -1)], dim=-1)
        z = self.project(pairs)  # (T, L, dim)
        prepared: Prepared = {t: {key: {} for key in keys} for t in tasks}
        for group, members in self.groups.items():
            chosen = [(p, key, name) for p, (key, name) in enumerate(members) if key in rows]
            if not chosen:
                continue
            own = z if len(chosen) == len(keys) else z[:, [rows[key] for _, key, _ in chosen]]
            made = self.generators[group](own, [p for p, _, _ in chosen])
            for (_, key, name), weights in zip(chosen, made, strict=True):
                constant = self.offsets[key][name]
                for t, value in zip(tasks, (weights + constant if constant else weights).unbind(0), strict=True):
                    prepared[t][key][name] = value
        return prepared


class LinearMap(nn.Linear):
    """z -> a flat weight. `spread` is the standard deviation of what comes out at the start, 0 for zeros.

    `variance` is that of an entry of z at the start; a `bias` starts at zero.
    """

    def __init__(self, dim: int, size: int, spread: float, variance: float, bias: bool = False) -> None:
        super().__init__(dim, size, bias=bias)
        nn.init.normal_(self.weight, std=spread / math.sqrt(dim * variance))
        if bias:
            nn.init.zeros_(self.bias)


def _check_method(factory: BankFactory, bank: Bank) -> None:
    """Refuse a method whose weights are fitted to data or learn at a rate of their own: here they are not what is trained."""
    if not bank.fitted:
        raise ConfigError(
            f"{factory.spec.name!r} is fitted to a task's data; generated weights are not: take sharing 'per_task' or 'shared'"
        )
    for name, _ in bank.method_weights():
        if (rate := factory.spec.module.group(factory.config, name).rate) != 1:
            raise ConfigError(
                f"{factory.spec.name!r} trains {name!r} at {rate:g} times the learning rate; generated weights have no rate of "
                "their own: take another sharing, or one rate for all"
            )


def _initial(bank: Bank, key: str) -> dict[str, torch.Tensor]:
    """The parameters of a site as the method initialises them; buffers are not generated."""
    return {n: t.detach().clone() for n, t in bank.tensors(key).items() if isinstance(t, nn.Parameter)}


def _constant(tensor: torch.Tensor) -> float:
    """What a weight that starts as a constant is offset by; 0 for random ones."""
    return float(tensor.flatten()[0]) if bool((tensor == tensor.flatten()[0]).all()) else 0.0


def _spread(tensors: Sequence[torch.Tensor]) -> float | None:
    """The standard deviation a group starts with, None where it starts as constants."""
    random = [t.std(correction=0).item() for t in tensors if t.numel() > 1]
    return max(random, default=0.0) or None


def _empty(bank: Bank) -> None:
    """Take the parameters out of a template: they are given at every call."""
    for key in bank.sites:
        for _, holder, leaf in bank.places[key]:
            if isinstance(holder[leaf], nn.Parameter):
                holder[leaf] = None
