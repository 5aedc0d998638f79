"""A registry: names to objects, with no duplicates and helpful errors; and the check of an object's options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from mtpeft.errors import ConfigError, UnknownNameError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to objects of one kind ("method", "head", "sharing", ...)."""

    def __init__(self, kind: str) -> None:
        """`kind` is the word error messages use."""
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register `entry`; raises `ConfigError` when the name is taken by another object."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is registered twice: {self._entries[name]} and {entry}")
        self._entries[name] = entry
        return entry

    def discard(self, name: str) -> None:
        """Forget a name, for code that registers for a while only."""
        self._entries.pop(name, None)

    def get(self, name: str, where: str = "") -> T:
        """The entry of `name`; raises `UnknownNameError` with the nearest names."""
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries, where)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


def check_options(
    what: str,
    entry: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    given: Iterable[str] = (),
    others: Iterable[str] = (),
    section: str = "",
) -> None:
    """Raise `ConfigError` for an option that `entry` does not take, or one that it needs and `options` lack.

    `what` is the entry in messages ("transform 'crop'"). `given` are the parameters the caller fills in itself, `others`
    more names to offer for a wrong one, `section` the part of the recipe that options are in ("data").
    """
    parameters = inspect.signature(entry).parameters
    known = [key for key in parameters if key not in given]
    for key in options:
        if key not in known:
            raise ConfigError(f"{what} takes no option {key!r}.{nearest(key, [*known, *others])}")
    for key in known:
        if parameters[key].default is inspect.Parameter.empty and key not in options:
            place = f" (key {section}.{key})" if section else ""
            raise ConfigError(f"{what} needs the option {key!r}{place}")
