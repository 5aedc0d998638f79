"""A loader that can start in the middle of an epoch and gives what an uninterrupted one would have given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected 1 or more")
        if not len(dataset):
            raise DataError(f"{getattr(dataset, 'name', type(dataset).__name__)}: no image in it")
        at_epoch: Callable[[int], Any] | None = getattr(dataset, "at_epoch", None)
        self.dataset = dataset if at_epoch is None else at_epoch(epoch)
        self.start = start
        self.num_workers, self.rows = num_workers, rows
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
        remaining = [(mix(self._seed, i), self._batches[i]) for i in range(self.start, len(self._batches))]
        fetch = _Batches(self.dataset, remaining, self.rows)
        if not self.num_workers:
            return map(self._received, (fetch[i] for i in range(len(fetch))))
        # Its own generator: a DataLoader would else draw its workers' base seed from the caller's.
        workers = DataLoader(
            fetch, batch_size=None, num_workers=self.num_workers, generator=torch.Generator().manual_seed(self._seed)
        )
        return map(self._received, iter(workers))

    def _received(self, batch: Any) -> Any:
        batch = received(batch)
        return self.dataset.received(batch) if batch is not None and hasattr(self.dataset, "received") else batch


class _Batches(Dataset[Any]):
    """Whole batches, or rows of them, as items, each made under its own seed; an unreadable one is its error (see `sent`)."""

    def __init__(
        self, dataset: Any, batches: list[tuple[int, list[int]]], rows: Callable[[int], range] | None = None
    ) -> None:
        self.dataset = dataset
        self.batches, self.rows = batches, rows
        self._batch: Callable[[list[int]], Any] | None = getattr(dataset, "read_batch", getattr(dataset, "batch", None))
        self._items: Callable[[list[int]], list[Any]] | None = getattr(dataset, "__getitems__", None)
        self._collate: Callable[[list[Any]], Any] = getattr(dataset, "collate_fn", None) or default_collate

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        seed, members = self.batches[index]
        generator = torch.default_generator  # the CPU's; torch.random.fork_rng does the same at fifty times the cost
        state = generator.get_state()
        generator.manual_seed(seed)
        try:
            return sent(lambda: self._made(members))
        finally:
            generator.set_state(state)

    def _made(self, members: list[int]) -> Any:
        if self.rows is not None:
            rows = self.rows(len(members))
            if not rows:
                return None
            if hasattr(self.dataset, "batch_rows"):
                return self.dataset.batch_rows(members, rows)
            members = [members[row] for row in rows]
        if self._batch is not None:
            return self._batch(members)
        items = self._items(members) if self._items is not None else [self.dataset[i] for i in members]
        return self._collate(items)


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
