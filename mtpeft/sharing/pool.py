"""A pool of sets of a method's weights, of which every image chooses or mixes its own by what the plain backbone sees in it.

Three papers' ways of choosing, over any method:

- "top": the `top_k` sets whose keys are nearest to the query (L2P: Wang et al., "Learning to Prompt for Continual
  Learning", CVPR 2022, arXiv 2112.08654, section 4.2);
- "own": in training those of the task at hand, at test time the nearest of all (DualPrompt: Wang et al., ECCV 2022,
  arXiv 2204.04799, sections 4.1 and 4.3);
- "mix": the sum of all sets, each times cos(q * A_m, K_m) (CODA-Prompt: Smith et al., CVPR 2023, arXiv 2211.13218,
  section 4).

The query is the pooled feature of the backbone without any method: one more pass, or what the feature cache keeps.
Several sets stand side by side where the method says how (prompts behind prompts, ranks beside ranks), else their mean acts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.errors import ConfigError
from mtpeft.options import Count, NotNegative, Positive
from mtpeft.sharing.bank import Bank, BankFactory, Tensors, call_each
from mtpeft.sharing.base import Sharing, register_sharing
from mtpeft.sharing.choosing import attended_cosines, cosines, deviation, most_chosen, nearest, seldom_nearest
from mtpeft.sharing.pool_options import SIZE, check_together
from mtpeft.sharing.pool_sets import (
    PoolSet,
    attention_of,
    check_poolable,
    copy_weights,
    keys_of,
    make_orthogonal,
    vectors_of,
)
from mtpeft.sharing.pool_usage import Usage, count_choices, frequency_before
from mtpeft.sharing.pool_weights import Chosen, Mixed, site_weights
from mtpeft.sharing.query import Query


@dataclass(frozen=True, eq=False)
class Selected:
    """What a forward uses: the sets its tasks see, which of them it trains, and each image's choice among them.

    `likeness` (P, B, M) of queries and keys; of the batch the first `count` images learn.
    """

    sets: list[PoolSet]
    trained: list[bool]
    choice: Chosen | Mixed
    likeness: torch.Tensor
    count: int


@register_sharing("pool")
class Pool(Sharing):
    """M sets of weights with keys, chosen or mixed by the image.

    `size` M of a pool that all tasks train, or `per_task`: so many are added with every task, which trains them alone and
    sees those of all tasks before. `choose`: "top", "own", "mix", see above; `top_k` sets of the first two act together.
    `keys`: one for the whole pool, or one for each "block", whose sites then choose for themselves (for "mix" with
    attention vectors of their own). `start`: the method's own first values, or "uniform" in -1 ... 1 (L2P, DualPrompt), or
    "orthogonal" to all that is there (CODA-Prompt); `from_previous`: a task's sets start with the weights of those before.

    What training adds to the loss: minus `key_loss` times the mean over images of the sum of cosines of the query and the
    chosen keys (by default 0.1 for "top", as in the port of L2P to PyTorch, and 1 for "own"); `orthogonality` times the mean
    squares by which keys, attention vectors and weights of all sets are from orthonormal.

    `frequency`: in training the distance of a key counts times how often earlier tasks chose the set. `batchwise`: the sets
    most images chose are those of the whole batch (of one process), in training and at test time: a result then depends on
    the company an image is in.
    """

    reads_query: ClassVar[bool] = True

    def __init__(
        self,
        factory: BankFactory,
        size: Count | None = None,
        per_task: Count | None = None,
        choose: Literal["top", "own", "mix"] = "top",
        top_k: Count = 1,
        keys: Literal["pool", "block"] = "pool",
        start: Literal["method", "uniform", "orthogonal"] = "method",
        from_previous: bool = False,
        key_loss: Positive | None = None,
        orthogonality: NotNegative = 0.0,
        frequency: bool = False,
        batchwise: bool = False,
    ) -> None:
        """`factory` builds each set. Raises `ConfigError` for options that do not go together, and methods without weights."""
        super().__init__(factory)
        if size is None and per_task is None:
            size, per_task = (None, 1) if choose == "own" else (SIZE, None)
        mixes = choose == "mix"
        check_together(
            size=size,
            per_task=per_task,
            choose=choose,
            top_k=top_k,
            start=start,
            from_previous=from_previous,
            key_loss=key_loss,
            frequency=frequency,
            batchwise=batchwise,
        )
        self.per_task, self.choose, self.top_k, self.start = per_task, choose, top_k, start
        self.from_previous, self.frequency, self.batchwise = from_previous, frequency, batchwise
        self.key_loss = 0.0 if mixes else key_loss or (0.1 if choose == "top" else 1.0)
        self.orthogonality = orthogonality
        with torch.random.fork_rng(devices=[]):
            check_poolable(factory, factory(), by_block=keys == "block")
        blocks = list(dict.fromkeys(site.block if keys == "block" else None for site in factory.sites))
        #: the group of every site, and the sites of every group
        self.group = {site.key: blocks.index(site.block if keys == "block" else None) for site in factory.sites}
        self.groups = {g: [key for key, own in self.group.items() if own == g] for g in range(len(blocks))}
        self.common = nn.ModuleList(self._made(size or 0, []))
        self.tasks = nn.ModuleDict()

    def _made(self, number: int, earlier: Sequence[PoolSet]) -> list[PoolSet]:
        """New sets, `number` of them."""
        uniform = self.start != "method"
        new = [PoolSet(self.factory, len(self.groups), self.choose == "mix", uniform) for _ in range(number)]
        if earlier:  # in the precision that the others have, which is to be copied or met exactly
            reference = earlier[0].keys
            new = [made.to(reference.device, reference.dtype) for made in new]
        if new and self.start == "orthogonal":
            make_orthogonal(new, earlier, self.groups)
        if self.from_previous and earlier:
            copy_weights(new, earlier[-number:])
        return new

    # tasks --------------------------------------------------------------------------------------------------------

    def add_task(self, task: str) -> None:
        """Sets of the task's own, behind those of all others; room to count what it chooses."""
        if self.per_task:
            self.tasks[f"task={task}"] = nn.ModuleList(self._made(self.per_task, self._sets()))
        elif self.frequency:
            self.tasks[f"task={task}"] = Usage(len(self.groups), len(self.common))

    def remove_task(self, task: str) -> None:
        """Drop what the task has of its own; tasks that came later lose its sets."""
        if f"task={task}" in self.tasks:
            del self.tasks[f"task={task}"]

    def _sets(self) -> list[PoolSet]:
        """All sets, in the order they were made."""
        found: list[Any] = list(self.common)
        if self.per_task:
            found += [made for own in self.tasks.values() for made in own]  # type: ignore[attr-defined]
        return found

    def _end(self, task: str) -> int:
        """How many sets there were when the task had been added."""
        if not self.per_task:
            return len(self.common)
        return self.per_task * (list(self.tasks).index(f"task={task}") + 1)

    @property
    def single_pass(self) -> bool:  # type: ignore[override]
        """Whether what an image chooses depends on no task."""
        return not self.per_task and not self.frequency

    @property
    def needs_task(self) -> bool:
        """Never: the image chooses."""
        return False

    def not_for(self, *, one_task: bool = False, at_once: bool = False, together: bool = False) -> str | None:
        """One task throughout has nothing that grows with tasks; tasks made at once have no trained ones before them."""
        if together and self.frequency:
            return "frequency counts what earlier tasks chose, and all tasks are trained together: leave it out"
        if one_task and (self.per_task or self.frequency):
            what = "per_task adds sets" if self.per_task else "frequency counts choices"
            return f"{what} task by task, and there is one task throughout: size=..., without it"
        if at_once and self.per_task and (self.from_previous or self.start == "orthogonal"):
            what = "from_previous" if self.from_previous else "start='orthogonal'"
            return f"{what} looks at the trained sets of earlier tasks, and all tasks are made at once: leave it out"
        return None

    def bank(self, task: str) -> Bank:
        """None serves a task: raises `ConfigError`."""
        raise ConfigError(
            f"sharing 'pool' has no one set of weights for task {task!r}: every image chooses; take sharing 'shared' or "
            "'per_task' for this"
        )

    def banks(self) -> list[Bank]:
        """Those of all sets."""
        return [made.bank for made in self._sets()]

    def modules_of(self, task: str) -> list[nn.Module]:
        """All sets the task sees, and its counts."""
        return [*self._sets()[: self._end(task)], *(self.own_modules(task) if self.frequency else [])]

    def own_modules(self, task: str) -> list[nn.Module]:
        """The sets the task trains alone, or its counts."""
        return [self.tasks[f"task={task}"]] if f"task={task}" in self.tasks else []

    def method_weights(self, task: str | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of all sets, or of those the task sees."""
        for made in self._sets()[: None if task is None else self._end(task)]:
            yield from made.bank.method_weights()

    # choosing -----------------------------------------------------------------------------------------------------

    def select(self, tasks: Sequence[str], index: torch.Tensor | None, query: Query) -> Selected:
        """Every image's choice. Of several tasks each image has the sets its own task sees."""
        ends = [self._end(task) for task in tasks]
        starts = [end - self.per_task if self.per_task else 0 for end in ends]
        sets = self._sets()[: max(ends)]
        trained = [any(a <= m < b for a, b in zip(starts, ends, strict=True)) for m in range(len(sets))]
        with torch.autocast(query.features.device.type, enabled=False):
            keys = keys_of(sets, trained)
            own, seen = self._masks(starts, ends, index, len(sets), query.features)
            if self.choose == "mix":
                likeness = attended_cosines(query.features.to(keys), keys, attention_of(sets, trained))
            else:
                likeness = cosines(query.features.to(keys), keys)
            if own is not None:
                likeness = torch.where(own, likeness, likeness.detach())
            choice: Chosen | Mixed
            if self.choose == "mix":
                choice = Mixed(likeness if seen is None else likeness.masked_fill(~seen, 0.0), own)
            else:
                choice = self._chosen(tasks, index, query, likeness, (starts, ends), (own, seen))
        return Selected(sets, trained, choice, likeness, query.count)

    def _masks(
        self, starts: Sequence[int], ends: Sequence[int], index: torch.Tensor | None, sets: int, like: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Which sets an image trains and which it sees, (B or 1, M); None where all images do all, or those of their task."""
        if not self.per_task or len(ends) == 1 or index is None:
            return None, None
        places = torch.arange(sets, device=like.device)
        first, last = (torch.tensor(x, device=like.device).index_select(0, index)[:, None] for x in (starts, ends))
        return (places >= first) & (places < last), places < last

    def _chosen(
        self,
        tasks: Sequence[str],
        index: torch.Tensor | None,
        query: Query,
        likeness: torch.Tensor,
        spans: tuple[Sequence[int], Sequence[int]],
        masks: tuple[torch.Tensor | None, torch.Tensor | None],
    ) -> Chosen:
        """The nearest sets of each image, of the whole batch, or those of its task."""
        (starts, ends), (own, allowed) = spans, masks
        batch, sets = likeness.shape[1:]
        only_own = self.choose == "own" and query.training
        if only_own and own is None and self.top_k == ends[0] - starts[0]:
            alike = torch.arange(starts[0], ends[0], device=likeness.device)
            return Chosen(alike.expand(len(self.groups), batch, -1), own, alike=True)
        if only_own:
            places = torch.arange(sets, device=likeness.device)
            allowed = ((places >= starts[0]) & (places < ends[0]))[None] if own is None else own
        if self.frequency and query.training:
            found = seldom_nearest(likeness, self.top_k, frequency_before(self.tasks, tasks, index))
        else:
            found = nearest(likeness, self.top_k, allowed)
        if self.batchwise:
            found = most_chosen(found, sets, index, len(tasks))
        if self.frequency and query.learning:
            count_choices(self.tasks, tasks, index, found, query.count)
        return Chosen(found, own, alike=self.batchwise and index is None)

    # losses -------------------------------------------------------------------------------------------------------

    @property
    def declares(self) -> tuple[str, ...]:
        """keys, orthogonality."""
        asked = {"keys": self.choose != "mix", "orthogonality": self.orthogonality > 0}
        return tuple(name for name, holds in asked.items() if holds)

    def by_losses(self) -> list[nn.Parameter]:
        """The keys, which features depend on where they weigh the sets alone."""
        return [] if self.choose == "mix" else [made.keys for made in self._sets()]

    def losses(self, selected: Selected) -> dict[str, torch.Tensor]:
        """The key loss and the penalty on what is not orthogonal, as far as they are asked for."""
        found = {}
        if isinstance(selected.choice, Chosen):
            likeness = selected.likeness.gather(-1, selected.choice.index)[:, : selected.count]
            found["keys"] = -self.key_loss * likeness.sum(-1).mean(1).sum()
        if self.orthogonality:
            sets, trained = selected.sets, selected.trained
            parts = [keys_of(sets, trained), *(vectors_of(sets, sites, trained) for sites in self.groups.values())]
            if self.choose == "mix":
                parts.append(attention_of(sets, trained))
            found["orthogonality"] = self.orthogonality * torch.stack([deviation(part) for part in parts]).sum()
        return found

    # running ------------------------------------------------------------------------------------------------------

    def chosen(self, tasks: Sequence[str]) -> None:
        """None: `select` has all there is."""

    def call(
        self,
        key: str,
        tasks: Sequence[str],
        index: torch.Tensor | None,
        inputs: Sequence[torch.Tensor],
        cache: dict[Any, Any],
    ) -> Tensors:
        """Site `key`, every image under the weights it chose. Raises `ConfigError` where no image was asked for its query."""
        selected: Selected | None = cache.get(self)
        if selected is None:
            raise ConfigError(
                "sharing 'pool' chooses weights by a query of each image, and a direct call of the backbone makes none: call "
                "the manager, manager(images, task) or manager.features(images, task)"
            )
        template = selected.sets[0].bank
        weights = site_weights(selected.sets, selected.trained, selected.choice, key, self.group[key], cache)
        if isinstance(selected.choice, Chosen) and selected.choice.alike:
            return template.call_with({name: tensor[0] for name, tensor in weights.items()}, key, *inputs)
        batch = selected.likeness.shape[1]
        split = [x.unflatten(0, (batch, x.shape[0] // batch)) for x in inputs]
        return call_each(template, weights, key, inputs, split)
