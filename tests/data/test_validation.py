"""Validation data: a class-balanced share of the training part, drawn by a seed, and nothing of the test part."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from mtpeft.data.images import TensorImages
from mtpeft.data.streams import class_incremental
from mtpeft.data.validation import Validation, hold_out
from mtpeft.errors import ConfigError, DataError


def images(counts: dict[int, int], first: int = 0) -> TensorImages:
    """`counts` images of each label, each of one grey value of its own."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    pixels = torch.arange(first, first + len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return TensorImages("greys", pixels, labels, [str(label) for label in counts])


def values(data: Any) -> list[int]:
    return [int(data.raw(index)[0, 0, 0]) for index in range(len(data))]


COUNTS = {0: 40, 1: 20, 2: 3, 3: 2}


def test_share_of_every_class() -> None:
    """10 % of each class, one at the least; parts disjoint, together the whole; the test part as it was."""
    stream = class_incremental(images(COUNTS), images(COUNTS, 100), num_tasks=2)
    held = hold_out(stream, Validation(0.1))
    for before, after in zip(stream, held, strict=True):
        assert after.validation is not None and after.test is before.test
        expected = {after.label_map[label]: max(1, round(0.1 * COUNTS[label])) for label in after.classes}
        assert Counter(after.validation.targets) == expected
        assert sorted(values(after.train) + values(after.validation)) == values(before.train)
        assert not set(values(after.validation)) & set(values(after.test))
    sizes = [(t["train_images"], t["validation_images"]) for t in held.describe()["tasks"]]
    assert sizes == [(54, 6), (3, 2)]


def test_a_seed_fixes_the_draw() -> None:
    stream = class_incremental(images(COUNTS), images(COUNTS, 100), num_tasks=2)
    one, same, other = ([values(t.validation) for t in hold_out(stream, Validation(0.25, s))] for s in (0, 0, 1))
    assert one == same != other


def test_classes_of_the_same_size_are_drawn_apart() -> None:
    stream = class_incremental(images({0: 20, 1: 20}), images({0: 1, 1: 1}, 100), num_tasks=1)
    found = values(hold_out(stream, Validation(0.5))[0].validation)
    assert [v for v in found if v < 20] != [v - 20 for v in found if v >= 20]


def test_a_class_of_one_item_cannot_be_split() -> None:
    stream = class_incremental(images({0: 5, 1: 1}), images({0: 1, 1: 1}, 100), num_tasks=1)
    with pytest.raises(DataError, match="task 'task0': class 1 has 1 training item, of which none can be held out"):
        hold_out(stream, Validation(0.1))


WRONG: list[tuple[Any, str]] = [
    (0.1, "validation must be a mapping such as dict\\(share=0.1, seed=0\\), got 0.1"),
    ({}, "key validation.share is missing"),
    ({"share": 0.1, "sed": 1}, "nothing reads the key validation.sed. Did you mean 'seed'"),
    *(
        ({"share": share}, "validation.share is .* expected a number above 0 to below 1")
        for share in (0, 1, -1, "a", True)
    ),
    ({"share": 0.1, "seed": -1}, "validation.seed is -1"),
    ({"share": 0.1, "seed": 1.5}, "validation.seed is 1.5"),
]


@pytest.mark.parametrize(("config", "message"), WRONG)
def test_mistakes_name_the_key(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Validation.of(config, "small", "validation")


def test_none_is_none() -> None:
    assert Validation.of(None, "small", "validation") is None
