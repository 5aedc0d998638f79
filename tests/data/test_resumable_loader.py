"""The resumable loader: one order per (seed, epoch), whatever the start and the number of workers."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import pytest
import torch

from mtpeft.data.loader import ResumableLoader
from mtpeft.data.sources import build_dataset
from mtpeft.data.to_images import to_images
from mtpeft.errors import ConfigError, DataError

CONFIG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class Numbers:
    """A data set of its own indices that records what is read, one by one."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read.append(index)
        return torch.tensor([float(index)]) + torch.rand(1), index


class FetchedNumbers(Numbers):
    """The same, several at a time."""

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        self.read.append(len(indices))
        return [(torch.zeros(1), index) for index in indices]


def order(loader: ResumableLoader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


def test_order_depends_on_seed_and_epoch_only() -> None:
    first = order(ResumableLoader(Numbers(23), 5, seed=1, epoch=2))
    torch.manual_seed(99)
    assert order(ResumableLoader(Numbers(23), 5, seed=1, epoch=2)) == first
    assert sorted(chain.from_iterable(first)) == list(range(23))
    assert order(ResumableLoader(Numbers(23), 5, seed=1, epoch=3)) != first
    assert order(ResumableLoader(Numbers(23), 5, seed=2, epoch=1)) != first
    assert order(ResumableLoader(Numbers(6), 4, seed=0, epoch=0, shuffle=False)) == [[0, 1, 2, 3], [4, 5]]


def test_resuming_reads_nothing_that_was_skipped() -> None:
    whole = order(ResumableLoader(Numbers(23), 5, seed=0, epoch=0))
    dataset = Numbers(23)
    loader = ResumableLoader(dataset, 5, seed=0, epoch=0, start=3)
    assert order(loader) == whole[3:]
    assert dataset.read == list(chain.from_iterable(whole[3:]))
    assert len(loader) == len(whole) == 5
    assert order(ResumableLoader(Numbers(23), 5, seed=0, epoch=0, start=5)) == []


def test_drop_last() -> None:
    loader = ResumableLoader(Numbers(23), 5, seed=0, epoch=0, drop_last=True)
    assert len(loader) == 4 and [len(batch) for batch in order(loader)] == [5] * 4
    assert len(ResumableLoader(Numbers(20), 5, seed=0, epoch=0, drop_last=True)) == 4


def test_batches_are_fetched_at_once_where_the_data_set_can() -> None:
    dataset = FetchedNumbers(10)
    assert len(order(ResumableLoader(dataset, 4, seed=0, epoch=0))) == 3
    assert dataset.read == [4, 4, 2]


@pytest.mark.parametrize("make", [lambda: Numbers(40), lambda: _digits()])
def test_workers_and_resuming_change_no_batch_and_no_augmentation(make: Any) -> None:
    def batches(**options: Any) -> list[Any]:
        return list(ResumableLoader(make(), 8, seed=3, epoch=1, **options))[:3]

    alone = batches()
    for x, y in zip(alone, batches(num_workers=2), strict=True):
        assert torch.equal(x[0], y[0]) and torch.equal(x[1], y[1])
    resumed = batches(start=1)
    assert torch.equal(alone[1][0], resumed[0][0]) and torch.equal(alone[2][0], resumed[1][0])


def test_augmentation_differs_between_batches_and_epochs() -> None:
    images = _digits().subset([0] * 64)
    loader = ResumableLoader(images, 32, seed=0, epoch=0)
    first, second = (x for x, _ in loader)
    assert not torch.equal(first, second)
    assert not torch.equal(first, next(iter(ResumableLoader(images, 32, seed=0, epoch=1)))[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_callers_generators_are_left_alone(workers: int) -> None:
    states = torch.get_rng_state(), random.getstate()
    for _ in ResumableLoader(_digits().subset(range(32)), 16, seed=0, epoch=0, num_workers=workers):
        pass
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]


def test_impossible_arguments() -> None:
    with pytest.raises(DataError, match="Numbers: no image in it"):
        ResumableLoader(Numbers(0), 5, seed=0, epoch=0)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        ResumableLoader(Numbers(5), 0, seed=0, epoch=0)
    for start in (-1, 4):
        with pytest.raises(ConfigError, match=f"start is batch {start}, but the epoch has 3"):
            ResumableLoader(Numbers(15), 5, seed=0, epoch=0, start=start)


def _digits() -> Any:
    augment = {"crop_padding": 1, "flip": True}
    return to_images(build_dataset({"type": "Digits"}), CONFIG, train=True, augment=augment)


def rows(reader: int) -> Any:
    """The rows of a batch that one of three readers takes."""
    return lambda number: range(reader * number // 3, (reader + 1) * number // 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_of_three_readers_are_the_whole_batches(workers: int) -> None:
    """Also where augmentation draws for a batch as a whole; of a last batch of one image two readers have none."""
    images = _digits().subset(range(17))
    parts = [list(ResumableLoader(images, 8, 3, 1, rows=rows(k), num_workers=workers)) for k in range(3)]
    assert [part[2] is None for part in parts] == [True, True, False]
    for number, (x, y) in enumerate(ResumableLoader(images, 8, 3, 1)):
        found = [part[number] for part in parts if part[number] is not None]
        assert torch.equal(torch.cat([own for own, _ in found]), x)
        assert torch.equal(torch.cat([own for _, own in found]), y)


def test_only_rows_and_items_asked_for_are_read() -> None:
    dataset = Numbers(17)
    assert [x is not None for x in ResumableLoader(dataset, 8, 3, 1, rows=rows(0))] == [True, True, False]
    assert len(dataset.read) == 2 + 2
    assert order(ResumableLoader(Numbers(9), 2, 0, 0, shuffle=False, items=range(4, 7))) == [[4, 5], [6]]
    assert order(ResumableLoader(Numbers(9), 2, 0, 0, shuffle=False, items=range(0))) == []
