"""The recipe's key `published`: values others reported, which the report sets this run beside.

`published=dict(LABEL=dict(source="who, where", values=dict(average_accuracy=83.8)))`, one entry for each row. A value is
that of a measure, or of a task at the end, in its unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mtpeft.errors import ConfigError, nearest
from mtpeft.options import Name, Section, shown


def check_published(published: Any, names: Iterable[str], recipe: str) -> None:
    """Raise `ConfigError` for what is no such mapping, or a value of a measure or task the run does not have."""
    if published is None:
        return
    known = list(names)
    if not isinstance(published, Mapping):
        raise ConfigError(
            f"recipe {recipe}: published is {shown(published)}, expected dict(LABEL=dict(source=..., values=dict(...)))"
        )
    for label, row in published.items():
        section = Section(row, recipe, f"published.{label}.")
        section.take("source", kind=Name)
        values = section.take("values", kind=dict[str, Any])
        section.finish()
        if not values:
            raise ConfigError(f"recipe {recipe}: published.{label}.values is empty")
        numbers = Section(values, recipe, f"published.{label}.values.")
        for name in values:
            if name not in known:
                raise ConfigError(
                    f"recipe {recipe}: published.{label}.values.{name} is no measure and no task of the run."
                    f"{nearest(str(name), known)}"
                )
            numbers.take(name, kind=float)
