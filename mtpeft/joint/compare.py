"""A comparison: recipes that are run one after the other under one budget, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError
from mtpeft.recipe import Section, load_recipe


@dataclass(frozen=True)
class Row:
    """One row of the table; the values of the `reference` row are the single-task values of the others."""

    name: str
    recipe: dict[str, Any]
    reference: bool


def comparison_rows(recipe: Mapping[str, Any]) -> list[Row]:
    """The rows of a comparison recipe, the reference first.

    Keys: `rows` names of recipes, `reference` one of them (or None), `seed`, and `common` sections of keys that replace those of
    every row (`common=dict(training=dict(steps=100))`).
    """
    top = Section(recipe, str(recipe["name"]))
    names, reference = list(top.take("rows")), top.take("reference", None)
    common, seed = dict(top.section("common").values), top.take("seed", None)
    top.take("name")
    top.finish()
    if reference is not None and reference not in names:
        raise ConfigError(f"recipe {recipe['name']}: reference {reference!r} is not one of rows")
    rows = []
    for name in sorted(names, key=lambda name: name != reference):
        values = _merged(load_recipe(name), common)
        if seed is not None:
            values["seed"] = seed
        rows.append(Row(Path(name).stem, values, name == reference))
    return rows


def _merged(base: Any, changes: Any) -> Any:
    """`changes` over `base`, mapping by mapping."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**base, **{key: _merged(base.get(key), value) for key, value in changes.items()}}
