"""Which samples and which tasks a step trains: an infinite sampler whose state is a few numbers.

Every process plans the whole step and keeps its share, so that processes agree without talking. The plan of step s is a
function of the seed, s, and how far each stream of samples has been read; that is all there is to save, and going on
from there reads nothing again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from mtpeft.data.loader import mix
from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.options import Count, Positive

NAMES = ("all", "uniform", "proportional", "temperature")


@dataclass(frozen=True)
class Draw:
    """One sample: item `index` of data set `source` as it is in its `epoch`, for `tasks`."""

    source: int
    epoch: int
    index: int
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """One step of one process: the samples of each part, and the sampler's state once the step is done."""

    parts: tuple[tuple[Draw, ...], ...]
    after: dict[str, Any]


@DATA_SAMPLERS.register_module(force=True)
class TaskSampler(Sampler[Plan]):
    """Plans of the steps from `state` on, without end.

    "all": every sample carries all tasks of its data set, and data sets are read as one. Otherwise a task is drawn for
    every `group` samples, and samples of the data set that has it: "uniform" over tasks; "proportional" to the sizes
    n_t of their data sets; "temperature": proportional to n_t^(1 / temperature).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        sources: Mapping[str, int],
        batch_size: int,
        parts: int = 1,
        seed: int = 0,
        name: str = "all",
        temperature: Positive | None = None,
        group: Count | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """`sizes` of the data sets, `sources`: the data set of each task. `temperature` is 2 by default, `group` 1.

        Raises `ConfigError` for numbers that do not fit, and for those that the sampler `name` does not use.
        """
        if name not in NAMES:
            raise UnknownNameError("task sampler", name, NAMES, "recipe key sampler.name")
        if temperature is not None and name != "temperature":
            raise ConfigError(f"recipe key sampler.temperature has no effect with the sampler {name!r}: leave it out")
        if group is not None and name == "all":
            raise ConfigError(
                "recipe key sampler.group has no effect with the sampler 'all', whose samples carry all tasks"
            )
        temperature, group = 2.0 if temperature is None else temperature, 1 if group is None else group
        if batch_size % world or batch_size % group:
            raise ConfigError(
                f"training.batch_size {batch_size} must be a multiple of the processes ({world}) and of sampler.group ({group})"
            )
        self.sizes, self.sources, self.batch_size, self.parts = list(sizes), dict(sources), batch_size, parts
        self.seed, self.name, self.group, self.rank, self.world = seed, name, group, rank, world
        self.tasks = list(sources)
        counts = torch.tensor([float(self.sizes[sources[t]]) for t in self.tasks], dtype=torch.float64)
        power = {"all": 0.0, "uniform": 0.0, "proportional": 1.0, "temperature": 1.0 / temperature}[name]
        self.probabilities = counts**power / (counts**power).sum()
        self.starts = [sum(self.sizes[:k]) for k in range(len(self.sizes) + 1)]
        self.state: dict[str, Any] = {"step": 0, "read": {}}
        self._orders: dict[tuple[str, int], list[int]] = {}

    def __iter__(self) -> Iterator[Plan]:
        step, read = self.state["step"], dict(self.state["read"])
        while True:
            parts = [self._part(step, part, read) for part in range(self.parts)]
            step += 1
            yield Plan(tuple(parts), {"step": step, "read": dict(read)})

    def _part(self, step: int, part: int, read: dict[str, int]) -> tuple[Draw, ...]:
        draws: list[Draw] = []
        if self.name == "all":
            draws = [self._any(read) for _ in range(self.batch_size)]
        else:
            generator = torch.Generator().manual_seed(mix(self.seed, "tasks", step, part))
            groups = self.batch_size // self.group
            chosen = torch.multinomial(self.probabilities, groups, replacement=True, generator=generator)
            names = [self.tasks[i] for i in chosen.tolist() for _ in range(self.group)]
            for name in names:
                source = self.sources[name]
                epoch, index = self._next(name, self.sizes[source], read)
                draws.append(Draw(source, epoch, index, (name,)))
        share = self.batch_size // self.world
        return tuple(draws[self.rank * share : (self.rank + 1) * share])

    def _any(self, read: dict[str, int]) -> Draw:
        """The next sample of all data sets read as one."""
        epoch, index = self._next("", self.starts[-1], read)
        source = max(k for k in range(len(self.sizes)) if self.starts[k] <= index)
        tasks = tuple(t for t in self.tasks if self.sources[t] == source)
        return Draw(source, epoch, index - self.starts[source], tasks)

    def _next(self, stream: str, size: int, read: dict[str, int]) -> tuple[int, int]:
        """Epoch and index of the next sample of a stream: every epoch is a permutation of its own."""
        number = read.get(stream, 0)
        read[stream] = number + 1
        epoch, position = divmod(number, size)
        if (stream, epoch) not in self._orders:
            self._orders.pop((stream, epoch - 1), None)
            generator = torch.Generator().manual_seed(mix(self.seed, "order", stream, epoch))
            self._orders[stream, epoch] = torch.randperm(size, generator=generator).tolist()
        return epoch, self._orders[stream, epoch][position]
