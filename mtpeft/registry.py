"""A registry: names to objects, with no duplicates and helpful errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from mtpeft.errors import ConfigError, UnknownNameError

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
        if not isinstance(name, str) or name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries, where)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
