"""Evolutionary search under a limit of weights (Zhang et al., 2022, after Chen et al., AutoFormer, ICCV 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated

from mtpeft.errors import ConfigError
from mtpeft.options import Count, Range, WholeNumber, check_fields
from mtpeft.search.space import Space, Subnet

Probability = Annotated[float, Range(at_least=0, at_most=1)]
#: draws of random subnets for each that is wanted, before the space counts as exhausted
PATIENCE = 1000
#: mutations or crossings for each that is wanted
TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """How it is searched; the defaults are those of the authors' scripts.

    `limit`: the most weights a subnet may have, heads apart. In each of `generations` a `population` of new subnets is
    measured: random ones in the first; in the others up to `mutants` and `crossovers` of the `parents`, the best of all
    so far, and random ones for the rest. `mutation`: the probability that a part is changed, `depth_mutation`: that its depth
    is, then. `size_mutation`: sizes of blocks that stay are changed with the probability `mutation` too, as in AutoFormer; in
    the authors' code they never are.
    """

    limit: Count = 640_000
    population: Count = 50
    parents: Count = 10
    generations: Count = 15
    mutants: WholeNumber = 25
    crossovers: WholeNumber = 25
    mutation: Probability = 0.2
    depth_mutation: Probability = 0.4
    size_mutation: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "search")
        if self.mutants + self.crossovers > self.population:
            raise ConfigError(
                f"search: {self.mutants} mutants and {self.crossovers} crossovers are more than the population, {self.population}"
            )


@dataclass(frozen=True)
class Candidate:
    """A subnet that was measured: higher `fitness` is better."""

    subnet: Subnet
    weights: int
    fitness: float


@dataclass(frozen=True)
class Generation:
    """The subnets measured in it, and the best of all so far, first."""

    measured: tuple[Candidate, ...]
    best: tuple[Candidate, ...]


def evolve(
    space: Space,
    weights: Callable[[Subnet], int],
    fitness: Callable[[Subnet], float],
    settings: Evolution,
    seed: int,
) -> list[Generation]:
    """The generations; the winner is the first of the last one's `best`.

    All depends on `seed` and what `fitness` returns alone: with measures that are remembered it can be run again, to the
    same end. Every subnet is measured once, those of the last generation too (in the authors' code these never count).
    Of equal fitness the one found first is better. Raises `ConfigError` where no subnet is within the limit.
    """
    rng, breeder = Random(seed), _Breeder(space, weights, settings.limit)
    generations: list[Generation] = []
    best: tuple[Candidate, ...] = ()
    for _ in range(settings.generations):
        fresh = _children(breeder, best, settings, rng) if best else []
        fresh += breeder.collect(settings.population - len(fresh), PATIENCE, lambda: space.draw(rng))
        if not best and not fresh:
            raise _none_legal(space, weights, settings.limit)
        measured = tuple(Candidate(subnet, weights(subnet), fitness(subnet)) for subnet in fresh)
        best = tuple(sorted([*best, *measured], key=lambda c: -c.fitness)[: settings.parents])
        generations.append(Generation(measured, best))
    return generations


def any_legal(space: Space, weights: Callable[[Subnet], int], limit: int, seed: int) -> Subnet:
    """A random subnet within the limit; `ConfigError` where there is none."""
    rng = Random(seed)
    found = _Breeder(space, weights, limit).collect(1, PATIENCE, lambda: space.draw(rng))
    if not found:
        raise _none_legal(space, weights, limit)
    return found[0]


def _none_legal(space: Space, weights: Callable[[Subnet], int], limit: int) -> ConfigError:
    least = weights(space.smallest())
    return ConfigError(f"search.limit is {limit:,} weights, no subnet drawn has so few; the smallest has {least:,}")


def _children(breeder: _Breeder, best: Sequence[Candidate], settings: Evolution, rng: Random) -> list[Subnet]:
    space, parents = breeder.space, [candidate.subnet for candidate in best]
    rates = settings.mutation, settings.depth_mutation, settings.size_mutation
    mutants = breeder.collect(settings.mutants, TRIES, lambda: space.mutate(rng.choice(parents), rng, *rates))

    def crossed() -> Subnet:
        one, other = rng.sample(parents, 2) if len(parents) > 1 else parents * 2
        return space.cross(one, other, rng)

    return mutants + breeder.collect(settings.crossovers, TRIES, crossed)


class _Breeder:
    """Tells which subnets are legal: within the limit, and not seen before."""

    def __init__(self, space: Space, weights: Callable[[Subnet], int], limit: int) -> None:
        self.space, self.weights, self.limit = space, weights, limit
        self.seen: set[tuple[tuple[int, ...], ...]] = set()

    def collect(self, wanted: int, tries: int, make: Callable[[], Subnet]) -> list[Subnet]:
        """Up to `wanted` legal subnets that `make` makes, in `tries` times as many calls."""
        found: list[Subnet] = []
        calls: Iterator[Subnet] = (make() for _ in range(wanted * tries))
        while len(found) < wanted and (subnet := next(calls, None)) is not None:
            key = tuple(subnet[part] for part in self.space.parts)
            if key not in self.seen and self.weights(subnet) <= self.limit:
                self.seen.add(key)
                found.append(subnet)
        return found
