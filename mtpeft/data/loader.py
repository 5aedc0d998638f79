"""A loader that can start in the middle of an epoch and gives what an uninterrupted one would have given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from mtpeft.errors import ConfigError, DataError, MtpeftError


class ResumableLoader:
    """Batches of one epoch, from batch number `start` on.

    The order is a function of (seed, epoch) alone, and the random numbers that augmentation draws from torch's global
    generator are a function of (seed, epoch, batch), so neither `start` nor `num_workers` changes a batch. Nothing
    before `start` is read, and the caller's generators are left as they were. `len()` counts the whole epoch's batches.
    A data set with a method `at_epoch(epoch)` is asked for its state in that epoch. One with `read_batch(indices)` and
    `received(batch)` reads in the workers and finishes in the caller's process; else batches are its `batch(indices)`, or
    its items collated. With `join_single` a last batch of one item is joined to the one before. `items` are those to
    read, without it all.
    With `rows`, a function of a batch's length, only these of its items are read, as they are in the whole batch; where
    there are none the batch is None. Items whose random numbers are drawn for a batch as a whole need a method
    `batch_rows(indices, rows)` for that.
    `readers` are processes that outlive the epoch, in place of `num_workers` new ones. With `pin` batches lie in pinned
    memory, for CUDA.
    Raises `DataError` for a data set without images, `ConfigError` for a batch size or start that cannot be.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        join_single: bool = False,
        items: Sequence[int] | None = None,
        rows: Callable[[int], range] | None = None,
        readers: Readers | None = None,
        pin: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected 1 or more")
        if not len(dataset):
            raise DataError(f"{getattr(dataset, 'name', type(dataset).__name__)}: no image in it")
        self.dataset, self.epoch, self.start, self.rows = dataset, epoch, start, rows
        self.num_workers, self.readers, self.pin = num_workers, readers, pin
        self._seed = mix(seed, epoch)
        order = list(range(len(dataset)) if items is None else items)
        if shuffle:
            places = torch.randperm(len(order), generator=torch.Generator().manual_seed(self._seed)).tolist()
            order = [order[place] for place in places]
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        if join_single and len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2] += batches.pop()
        if drop_last and batches and len(batches[-1]) < batch_size:
            batches.pop()
        if not 0 <= start <= len(batches):
            raise ConfigError(f"start is batch {start}, but the epoch has {len(batches)}")
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        plans = [self._plan(i) for i in range(self.start, len(self._batches))]
        if self.readers is not None:
            return map(self._received, self.readers.read(plans))
        return map(self._received, _loader(self.dataset, plans, self.num_workers, self.pin))

    def _plan(self, number: int) -> Plan:
        members = self._batches[number]
        rows = None if self.rows is None else self.rows(len(members))
        return Plan(self.epoch, mix(self._seed, number), members, rows)

    def _received(self, batch: Any) -> Any:
        batch = received(batch)
        return self.dataset.received(batch) if batch is not None and hasattr(self.dataset, "received") else batch


class Plan(NamedTuple):
    """A batch to be read: its epoch, the seed of what is drawn for it, its items, which of them are wanted (None: all)."""

    epoch: int
    seed: int
    members: list[int]
    rows: range | None = None


class Readers:
    """Processes that read one data set for many epochs, one after the other. They end with this object."""

    def __init__(self, dataset: Any, num_workers: int, pin: bool = False) -> None:
        """`num_workers` is 1 or more; they start with the first epoch."""
        self._plans: list[Plan] = []
        self._loader = _loader(dataset, self._plans, num_workers, pin, persistent_workers=True)

    def read(self, plans: Sequence[Plan]) -> Iterator[Any]:
        """The batches of an epoch; what is left of the one before is dropped."""
        self._plans[:] = plans
        return iter(self._loader)


def _loader(dataset: Any, plans: list[Plan], num_workers: int, pin: bool, **options: Any) -> DataLoader[Any]:
    # Its own generator: a DataLoader would else draw its workers' base seed from the caller's.
    return DataLoader(
        _Batches(dataset),
        batch_size=None,
        sampler=plans,
        num_workers=num_workers,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(0),
        collate_fn=_as_it_is,
        **options,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


class _Batches(Dataset[Any]):
    """Whole batches, or rows of them, as items, each made under its own seed; an unreadable one is its error (see `sent`)."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = self._now = dataset
        self._epoch: int | None = None

    def __getitem__(self, plan: Plan) -> Any:
        if self._epoch != plan.epoch and hasattr(self.dataset, "at_epoch"):
            self._now, self._epoch = self.dataset.at_epoch(plan.epoch), plan.epoch
        generator = torch.default_generator  # the CPU's; torch.random.fork_rng does the same at fifty times the cost
        state = generator.get_state()
        generator.manual_seed(plan.seed)
        try:
            return sent(lambda: self._rows(plan.members, plan.rows))
        finally:
            generator.set_state(state)

    def _rows(self, members: list[int], rows: range | None) -> Any:
        if rows is None:
            return self._made(members)
        if not rows:
            return None
        if hasattr(self._now, "batch_rows"):
            return self._now.batch_rows(members, rows)
        return self._made([members[row] for row in rows])

    def _made(self, members: list[int]) -> Any:
        data = self._now
        whole: Callable[[list[int]], Any] | None = getattr(data, "read_batch", getattr(data, "batch", None))
        if whole is not None:
            return whole(members)
        several: Callable[[list[int]], list[Any]] | None = getattr(data, "__getitems__", None)
        items = several(members) if several is not None else [data[i] for i in members]
        collate: Callable[[list[Any]], Any] = getattr(data, "collate_fn", None) or default_collate
        return collate(items)


def count_batches(items: int, batch_size: int, join_single: bool = False) -> int:
    """Batches of an epoch of `ResumableLoader`."""
    joined = join_single and items > batch_size and items % batch_size == 1
    return -(-items // batch_size) - joined


def sent(make: Callable[[], Any]) -> Any:
    """What `make` gives, or its error when the user can mend it.

    Raised in a worker, the error would reach the user as a traceback of many lines; `received` raises it.
    """
    try:
        return make()
    except MtpeftError as error:
        return error


def received(value: Any) -> Any:
    """What a worker sent. Raises the error it met."""
    if isinstance(value, MtpeftError):
        raise value
    return value


def mix(*parts: object) -> int:
    """One 63-bit seed out of several numbers or words, the same on every machine and Python."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
