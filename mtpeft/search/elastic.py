"""The supernet: an attached method at its largest sizes, of which any subnet can take part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from mtpeft.errors import ConfigError
from mtpeft.hooks.attachment import Attachment
from mtpeft.manager.manager import TaskManager
from mtpeft.methods import METHODS, MethodSpec
from mtpeft.search.space import Space, Subnet, quarters


class Elastic:
    """The elastic method of a manager.

    Attributes: `attachment`, `parts` (the options with sizes), `blocks` (their number). Raises `ConfigError` where none, or
    several of the attached methods are elastic, and where weights are made by something else than the method itself.
    """

    def __init__(self, manager: TaskManager) -> None:
        found = [attachment for attachment in manager.methods if attachment.spec.elastic]
        if len(found) != 1:
            names = " and ".join(repr(a.spec.name) for a in manager.methods)
            raise ConfigError(f"a supernet is of one elastic method ({', '.join(elastic_methods())}), not of {names}")
        self.attachment: Attachment = found[0]
        if self.attachment.sharing_name not in self.spec.sharings:
            raise ConfigError(
                f"a supernet has weights of its own: sharing={self.spec.sharings[0]!r}, not {self.attachment.sharing_name!r}"
            )
        self.blocks = len(manager.anatomy.blocks)
        self.parts = tuple(dict.fromkeys(self._option(site.kind) for site in self.attachment.selected))
        self._costs: dict[tuple[str, int], int] = {}

    @property
    def spec(self) -> MethodSpec:
        """The method, as registered."""
        return self.attachment.spec

    def space(self, sizes: Sequence[int], depths: Sequence[int] | None = None) -> Space:
        """The subnets with these sizes and depths (None: a quarter, a half, three quarters and all of the blocks).

        Raises `ConfigError` where the supernet has no room for the largest.
        """
        space = Space(self.parts, self.blocks, tuple(sizes), quarters(self.blocks) if depths is None else tuple(depths))
        most = (max(space.sizes),) * max(space.depths)
        self._check({part: (*most, *(0,) * (self.blocks - len(most))) for part in self.parts})
        return space

    def use(self, subnet: Subnet | None) -> None:
        """Let the leading rows of every part take part, as many as `subnet` says; None for the whole supernet."""
        if subnet is not None:
            self._check(subnet)
        for bank in self.attachment.weights.banks():
            for site in self.attachment.selected:
                assert site.block is not None
                size = None if subnet is None else subnet[self._option(site.kind)][site.block]
                bank.sites[site.key].active = size  # type: ignore[assignment]

    def weights(self, subnet: Subnet) -> int:
        """How many weights the subnet has as a method of its own, heads apart."""
        sites = self.attachment.selected
        return sum(self._cost(n, subnet[self._option(s.kind)][s.block or 0]) for n, s in enumerate(sites))

    def _cost(self, number: int, size: int) -> int:
        """Weights of a site at a size."""
        site = self.attachment.selected[number]
        key = site.key, size
        if key not in self._costs:
            changes: dict[str, Any] = {self._option(site.kind): size}
            config = dataclasses.replace(self.attachment.config, **changes)
            with torch.device("meta"):
                module = self.spec.module(config, site) if size else None
            self._costs[key] = 0 if module is None else sum(p.numel() for p in module.parameters())
        return self._costs[key]

    def _option(self, kind: str) -> str:
        assert self.spec.elastic is not None
        return self.spec.elastic[kind]

    def _check(self, subnet: Subnet) -> None:
        """Raise `ConfigError` for a part that the supernet has not, or not of that size."""
        there: dict[tuple[str, int], int] = {}
        for site in self.attachment.selected:
            assert site.block is not None
            option = self._option(site.kind)
            built = getattr(self.attachment.config, option)
            there[option, site.block] = built if isinstance(built, int) else built[site.block]
        for option, sizes in subnet.items():
            for block, size in enumerate(sizes):
                if size > there.get((option, block), 0):
                    has = there.get((option, block), 0)
                    raise ConfigError(f"{option} of block {block} is {size}, and the supernet has {has}")


def elastic_methods() -> list[str]:
    """Names of the methods whose sizes can be searched."""
    return [name for name in METHODS if METHODS.get(name).elastic]
