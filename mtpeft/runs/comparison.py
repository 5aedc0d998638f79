"""A comparison: recipes that are run one after the other under one budget, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError
from mtpeft.options import Section
from mtpeft.runs.recipe import load_recipe

Results = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of the table; the values of the `reference` row are the single-task values of the others."""

    name: str
    recipe: dict[str, Any]
    reference: bool = False


def comparison_rows(recipe: Mapping[str, Any]) -> list[Row]:
    """The rows of a comparison recipe, the reference first.

    Keys: `rows`, `reference` one of them (or None), and `common` sections of keys that replace those of every row
    (`common=dict(training=dict(steps=100))`). `rows` are names of recipes, and `seed` that of all of them; or a mapping
    {name: changes}: changes of the recipe `base`, given by name, and of the keys that stand beside `rows`, which come over
    it. Changes go mapping by mapping; one that holds `_delete_=True` takes the place of the other, as in MMEngine.
    Raises `ConfigError` for a reference that is no row, a row that is a comparison itself, and names used twice.
    """
    top = Section(recipe, str(recipe["name"]))
    where, asked = f"recipe {recipe['name']}", top.take("rows")
    reference, common = top.take("reference", None), dict(top.section("common").values)
    plain = isinstance(asked, (list, tuple)) and all(isinstance(name, str) for name in asked)
    if not asked or not (plain or isinstance(asked, Mapping)):
        raise ConfigError(f"{where}: rows is {asked!r}, expected names of recipes, or a mapping of names to changes")
    if reference is not None and reference not in asked:
        raise ConfigError(f"{where}: reference {reference!r} is not one of rows")
    recipes = _of_changes(top, asked) if isinstance(asked, Mapping) else _of_names(top, asked)
    rows: dict[str, Row] = {}
    for key in sorted(recipes, key=lambda key: key != reference):
        values, name = merged(recipes[key], common), Path(key).stem
        if "rows" in values:
            raise ConfigError(f"{where}: row {key!r} is a comparison itself; name the rows it has")
        if name in rows:
            raise ConfigError(f"{where}: two rows are named {name!r}, and would be run in one folder")
        rows[name] = Row(name, values, key == reference)
    return list(rows.values())


def is_joint(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe is one of the joint engine: it has `tasks`, or its rows do."""
    return "tasks" in (comparison_rows(recipe)[0].recipe if "rows" in recipe else recipe)


def run_rows(rows: Sequence[Row], path: Path, run: Callable[[Results, Path], Results | None]) -> list[Results] | None:
    """The results of all rows, each from `run(recipe, folder)` in a folder below `path`; None when one was interrupted.

    The rows after the reference get its main values as their `single_task`.
    """
    reference: dict[str, float | None] | None = None
    collected = []
    for row in rows:
        values = row.recipe if reference is None else {**row.recipe, "single_task": reference}
        results = run(values, path / row.name)
        if results is None:
            return None
        if row.reference:
            reference = results["main"]
        collected.append(results)
    return collected


def _of_names(top: Section, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{name: recipe}, all with the seed of the comparison where it has one."""
    top.take("name")
    seed = top.take("seed", None)
    top.finish()
    return {name: {**load_recipe(name), **({} if seed is None else {"seed": seed})} for name in names}


def _of_changes(top: Section, rows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{name: recipe}."""
    base, own = top.take("base", None), {k: v for k, v in top.values.items() if k not in top.known}
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"recipe {top.recipe}: base is {base!r}, expected the name of a recipe")
    start = own if base is None else merged(load_recipe(base), own)
    for name, changes in rows.items():
        if not isinstance(changes, Mapping) or Path(name).stem != name:
            raise ConfigError(f"recipe {top.recipe}: rows.{name} must be a mapping (dict(...)) under a plain name")
    return {name: {**merged(start, changes), "name": name} for name, changes in rows.items()}


def merged(base: Any, changes: Any) -> Any:
    """`changes` over `base`, mapping by mapping; one that holds `_delete_=True` takes the place of the other."""
    if not isinstance(changes, Mapping):
        return changes
    values = {key: value for key, value in changes.items() if key != "_delete_"}
    kept = base if isinstance(base, Mapping) and not changes.get("_delete_") else {}
    return {**kept, **{key: merged(kept.get(key), value) for key, value in values.items()}}
