"""The space of subnets: which parts how many of the first blocks have, and of what size in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from mtpeft.errors import ConfigError

#: part -> its size in every block: positive in the first ones, as many as the part's depth, 0 in the others
Subnet = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Space:
    """All subnets of `parts` over a model of `blocks` blocks with depths and sizes out of these.

    Raises `ConfigError` for depths the model does not have, and for no depth or size at all.
    """

    parts: tuple[str, ...]
    blocks: int
    sizes: tuple[int, ...]
    depths: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values, most in (("sizes", self.sizes, None), ("depths", self.depths, self.blocks)):
            wrong = [value for value in values if value < 1 or (most is not None and value > most)]
            if wrong or not values:
                limits = "at least 1" if most is None else f"1 to {most}, the number of blocks"
                raise ConfigError(f"{name} of the search is {list(values)}, expected some of {limits}")

    def draw(self, rng: Random) -> Subnet:
        """Each part apart: a depth, uniformly, and a size of every block within it, uniformly."""
        return {part: self._list(rng, (), rng.choice(self.depths)) for part in self.parts}

    def mutate(self, parent: Subnet, rng: Random, part: float, depth: float, sizes: bool = False) -> Subnet:
        """With probability `part` each part, and then with `depth`, gets a depth drawn anew.

        Blocks that it gains get sizes at random, those that it loses 0; the others keep theirs. With `sizes` each of these
        is drawn anew with probability `part`, too.
        """
        child = {}
        for name in self.parts:
            kept = tuple(size for size in parent[name] if size)
            length = len(kept)
            if rng.random() < part and rng.random() < depth:
                length = rng.choice(self.depths)
            if sizes:
                kept = tuple(rng.choice(self.sizes) if rng.random() < part else size for size in kept)
            child[name] = self._list(rng, kept[:length], length)
        return child

    def cross(self, one: Subnet, other: Subnet, rng: Random) -> Subnet:
        """Each part's whole list from one of the two, with equal probability."""
        return {part: rng.choice((one, other))[part] for part in self.parts}

    def __contains__(self, subnet: Subnet) -> bool:
        """Whether every part is a list of one of the depths, of sizes of the space and zeros behind them."""
        return subnet.keys() == set(self.parts) and all(self._fits(sizes) for sizes in subnet.values())

    def smallest(self) -> Subnet:
        """Every part at the least size and depth."""
        return {part: self._padded((min(self.sizes),) * min(self.depths)) for part in self.parts}

    def _fits(self, sizes: Sequence[int]) -> bool:
        depth = sum(size > 0 for size in sizes)
        whole = len(sizes) == self.blocks and not any(sizes[depth:])
        return whole and depth in self.depths and set(sizes[:depth]) <= set(self.sizes)

    def _list(self, rng: Random, kept: tuple[int, ...], length: int) -> tuple[int, ...]:
        """`kept` and sizes at random behind them, `length` in all, then zeros."""
        return self._padded((*kept, *(rng.choice(self.sizes) for _ in range(length - len(kept)))))

    def _padded(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return (*sizes, *(0,) * (self.blocks - len(sizes)))


def quarters(blocks: int) -> tuple[int, ...]:
    """Depths of a quarter, a half, three quarters and all of the blocks: 3, 6, 9 and 12 of 12."""
    return tuple(sorted({max(1, round(blocks * part / 4)) for part in (1, 2, 3, 4)}))
