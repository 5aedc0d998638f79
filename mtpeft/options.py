"""Options, read so that none goes unnoticed: those a callable takes, and the keys of a recipe's sections."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mtpeft.errors import ConfigError, nearest


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


class Section:
    """A mapping of a recipe that remembers which keys were read; `finish` refuses those that were not."""

    def __init__(self, values: Mapping[str, Any], recipe: str, path: str = "") -> None:
        """`recipe` and `path` name the place in error messages."""
        self.values, self.recipe, self.path = dict(values), recipe, path
        self.known: set[str] = set()

    def take(self, key: str, default: Any = ...) -> Any:
        """The value of `key`; without a default the key is required."""
        self.known.add(key)
        if key in self.values:
            return self.values[key]
        if default is ...:
            raise ConfigError(f"recipe {self.recipe}: key {self.path}{key} is missing")
        return default

    def section(self, key: str) -> Section:
        """A nested mapping, empty when it is not there."""
        value = self.take(key, {})
        if not isinstance(value, Mapping):
            raise ConfigError(f"recipe {self.recipe}: {self.path}{key} must be a mapping (dict(...)), got {value!r}")
        return Section(value, self.recipe, f"{self.path}{key}.")

    def fields(self, cls: type) -> dict[str, Any]:
        """All keys, which must be fields of the dataclass `cls`."""
        self.known |= set(cls.__dataclass_fields__)  # type: ignore[attr-defined]
        self.finish()
        return dict(self.values)

    def finish(self) -> None:
        """Raise `ConfigError` for the first key nothing reads, with the nearest ones."""
        for key in self.values:
            if key not in self.known:
                raise ConfigError(
                    f"recipe {self.recipe}: nothing reads the key {self.path}{key}.{nearest(key, self.known)}"
                )
