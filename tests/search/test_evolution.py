"""The evolutionary search: legality, who is measured and kept, that it finds what is better, that it can be run again."""

from __future__ import annotations

import pytest

from mtpeft.errors import ConfigError
from mtpeft.search import Evolution, Space, Subnet, any_legal, evolve

SPACE = Space(("prompts", "ranks", "widths"), 12, (1, 5, 10), (3, 6, 9, 12))
#: of a ViT-B/16
COST = {"prompts": 768, "ranks": 4 * 768, "widths": 2 * 768 + 1}


def weights(subnet: Subnet) -> int:
    return sum(
        COST[part] * sum(sizes) + (768 * sum(s > 0 for s in sizes) if part == "widths" else 0)
        for part, sizes in subnet.items()
    )


def value(subnet: Subnet) -> float:
    """Best with large updates in all blocks, and no more than three prompts."""
    return sum(subnet["ranks"]) - sum(subnet["prompts"])


SETTINGS = Evolution(limit=450_000, population=20, parents=5, generations=8, mutants=8, crossovers=8)


def test_every_candidate_is_legal_new_and_measured_once() -> None:
    measured: list[Subnet] = []

    def fitness(subnet: Subnet) -> float:
        measured.append(subnet)
        return value(subnet)

    generations = evolve(SPACE, weights, fitness, SETTINGS, seed=0)
    assert [len(g.measured) for g in generations] == [20] * 8
    everyone = [c for g in generations for c in g.measured]
    assert [c.subnet for c in everyone] == measured
    assert len({tuple(s.values()) for s in measured}) == len(measured) == 160
    assert all(s in SPACE and weights(s) <= 450_000 for s in measured)
    assert all(c.weights == weights(c.subnet) and c.fitness == value(c.subnet) for c in everyone)
    for number, generation in enumerate(generations):  # the best of all so far, those of the last generation too
        so_far = [c for g in generations[: number + 1] for c in g.measured]
        assert [c.fitness for c in generation.best] == sorted((c.fitness for c in so_far), reverse=True)[:5]


def test_children_come_from_the_best() -> None:
    first, second = evolve(
        SPACE,
        weights,
        value,
        Evolution(limit=450_000, population=20, parents=3, generations=2, mutants=0, crossovers=20),
        seed=1,
    )
    lists = {part: {c.subnet[part] for c in first.best} for part in SPACE.parts}
    crossed = [c for c in second.measured if all(c.subnet[part] in lists[part] for part in SPACE.parts)]
    assert 3 <= len(crossed) <= 3**3 - 3 and second.measured[: len(crossed)] == tuple(crossed)


def test_search_beats_as_many_random_subnets() -> None:
    found = evolve(SPACE, weights, value, SETTINGS, seed=0)[-1].best[0]
    alone = Evolution(limit=450_000, population=160, parents=5, generations=1, mutants=0, crossovers=0)
    drawn = evolve(SPACE, weights, value, alone, seed=0)[-1].best[0]
    assert found.fitness > drawn.fitness


def test_the_end_depends_on_the_seed_and_the_measures_alone() -> None:
    assert evolve(SPACE, weights, value, SETTINGS, seed=5) == evolve(SPACE, weights, value, SETTINGS, seed=5)
    assert evolve(SPACE, weights, value, SETTINGS, seed=5) != evolve(SPACE, weights, value, SETTINGS, seed=6)


def test_of_equal_fitness_the_first_found_wins() -> None:
    generations = evolve(SPACE, weights, lambda _: 1.0, SETTINGS, seed=2)
    assert generations[-1].best == generations[0].measured[:5]


def test_a_small_space_is_searched_whole() -> None:
    tiny = Space(("ranks",), 2, (1, 2), (1, 2))  # 2 + 4 subnets
    generations = evolve(tiny, lambda s: sum(s["ranks"]), lambda s: sum(s["ranks"]), SETTINGS, seed=0)
    assert [len(g.measured) for g in generations] == [6] + [0] * 7
    assert generations[-1].best[0].subnet == {"ranks": (2, 2)}


def test_no_legal_subnet() -> None:
    strict = Evolution(limit=10_000, population=2, mutants=1, crossovers=1)
    message = r"search.limit is 10,000 weights, no subnet drawn has so few; the smallest has 18,435"
    with pytest.raises(ConfigError, match=message):
        evolve(SPACE, weights, value, strict, seed=0)
    with pytest.raises(ConfigError, match=message):
        any_legal(SPACE, weights, 10_000, seed=0)
    assert weights(any_legal(SPACE, weights, 300_000, seed=0)) <= 300_000


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="30 mutants and 25 crossovers are more than the population, 50"):
        Evolution(mutants=30)
    with pytest.raises(ConfigError, match=r"search: mutation is 1\.5, expected"):
        Evolution(mutation=1.5)
    defaults = Evolution()
    assert (defaults.limit, defaults.population, defaults.parents, defaults.generations) == (640_000, 50, 10, 15)
    assert (defaults.mutants, defaults.crossovers, defaults.mutation, defaults.depth_mutation) == (25, 25, 0.2, 0.4)
