"""The space of subnets: what is drawn, what mutation and crossover may change, what is no subnet of it."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from mtpeft.errors import ConfigError
from mtpeft.search import Space, Subnet
from mtpeft.search.space import quarters

SPACE = Space(("prompts", "ranks", "widths"), 12, (1, 5, 10), (3, 6, 9, 12))


def depth(sizes: tuple[int, ...]) -> int:
    return sum(size > 0 for size in sizes)


def test_draws_are_uniform_over_depths_and_then_over_sizes() -> None:
    rng = Random(0)
    drawn = [SPACE.draw(rng) for _ in range(2000)]
    assert all(subnet in SPACE for subnet in drawn)
    for part in SPACE.parts:
        depths = Counter(depth(subnet[part]) for subnet in drawn)
        assert depths.keys() == {3, 6, 9, 12} and all(430 < count < 570 for count in depths.values())
        first = Counter(subnet[part][0] for subnet in drawn)
        assert first.keys() == {1, 5, 10} and all(600 < count < 733 for count in first.values())
    together = Counter((depth(subnet["prompts"]), depth(subnet["ranks"])) for subnet in drawn)
    assert len(together) == 16  # each part has a depth of its own


def test_the_same_seed_draws_the_same() -> None:
    assert SPACE.draw(Random("3, 0, 17")) == SPACE.draw(Random("3, 0, 17")) != SPACE.draw(Random("3, 0, 18"))


def test_mutation_changes_depths_and_keeps_the_sizes_of_blocks_that_stay() -> None:
    rng = Random(1)
    changed = 0
    for _ in range(2000):
        parent = SPACE.draw(rng)
        child = SPACE.mutate(parent, rng, part=0.2, depth=0.4)
        assert child in SPACE
        for part in SPACE.parts:
            both = min(depth(parent[part]), depth(child[part]))
            assert child[part][:both] == parent[part][:both]
            changed += depth(child[part]) != depth(parent[part])
    assert 250 < changed < 470  # of 6000 lists 0.2 * 0.4 are drawn anew, of which three in four are of another depth


def test_mutation_of_sizes_too() -> None:
    rng = Random(2)
    parent = SPACE.draw(rng)
    changed = total = 0
    for _ in range(500):
        child = SPACE.mutate(parent, rng, part=0.2, depth=0.0, sizes=True)
        for part in SPACE.parts:
            assert depth(child[part]) == depth(parent[part])
            changed += sum(a != b for a, b in zip(parent[part], child[part], strict=True))
            total += depth(parent[part])
    assert 0.11 < changed / total < 0.16  # 0.2 of them, two in three of which become another


def test_certain_and_impossible_mutations() -> None:
    rng, parent = Random(3), SPACE.smallest()
    assert SPACE.mutate(parent, rng, part=1.0, depth=0.0) == SPACE.mutate(parent, rng, part=0.0, depth=1.0) == parent
    depths = {depth(SPACE.mutate(parent, rng, part=1.0, depth=1.0)["ranks"]) for _ in range(100)}
    assert depths == {3, 6, 9, 12}


def test_crossover_takes_whole_lists_of_either_parent() -> None:
    rng = Random(4)
    one, other = SPACE.draw(rng), SPACE.draw(rng)
    assert all(one[part] != other[part] for part in SPACE.parts)
    children = [SPACE.cross(one, other, rng) for _ in range(400)]
    assert all(child[part] in (one[part], other[part]) for child in children for part in SPACE.parts)
    kinds = Counter(tuple(child[part] == one[part] for part in SPACE.parts) for child in children)
    assert len(kinds) == 8 and all(count > 25 for count in kinds.values())


def change(**parts: tuple[int, ...]) -> Subnet:
    return {**SPACE.smallest(), **parts}


@pytest.mark.parametrize(
    "subnet",
    [
        change(ranks=(1, 1, 1, 1) + (0,) * 8),  # a depth that is none
        change(ranks=(1, 0, 1, 1) + (0,) * 8),  # a hole
        change(ranks=(1, 2, 1) + (0,) * 9),  # a size that is none
        change(ranks=(1, 1, 1)),  # too short
        {"prompts": (1,) * 12},  # parts that lack
    ],
)
def test_what_is_no_subnet(subnet: Subnet) -> None:
    assert SPACE.smallest() in SPACE and subnet not in SPACE


def test_spaces_that_cannot_be() -> None:
    for sizes, depths, message in (
        ((), (3,), r"sizes of the search is \[\], expected some of at least 1"),
        ((0, 5), (3,), r"sizes of the search is \[0, 5\]"),
        ((5,), (3, 13), r"depths of the search is \[3, 13\], expected some of 1 to 12"),
    ):
        with pytest.raises(ConfigError, match=message):
            Space(("ranks",), 12, sizes, depths)
    assert [quarters(n) for n in (12, 6, 2, 1)] == [(3, 6, 9, 12), (2, 3, 4, 6), (1, 2), (1,)]
