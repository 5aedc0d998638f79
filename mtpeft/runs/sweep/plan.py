"""What a sweep runs: settings out of a grid, and for each the runs of its seeds and class orders.

With validation data, every setting is first trained and measured on data held out of the training part, in runs that never
measure the test part. The best setting of each method, by the mean of its runs, is then trained as the recipe says.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtpeft.data.validation import Validation
from mtpeft.errors import ConfigError
from mtpeft.options import Section, WholeNumber
from mtpeft.runs.comparison import is_joint
from mtpeft.runs.recipe import set_key
from mtpeft.runs.sweep.grid import METHOD, Axis, combinations, folder_name, shown

#: held out for choosing where the recipe holds nothing out itself
SHARE = {"share": 0.1, "seed": 0}
#: the folder of the runs by which settings are chosen
VALIDATION = "validation"
#: streams whose classes can come in another order
ORDERED = ("task_incremental", "class_incremental")


@dataclass(frozen=True)
class Trial:
    """One run: its folder below that of the sweep, and its recipe."""

    folder: str
    seed: int
    order: int | None
    recipe: dict[str, Any] = field(compare=False)


@dataclass(frozen=True)
class Setting:
    """One choice of values. `test` are its runs as the recipe has them, `validation` those by which it may be chosen."""

    name: str
    method: str
    values: dict[str, Any]
    test: tuple[Trial, ...]
    validation: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All settings of a sweep. `select` is the validation data by which settings are chosen, None where all are tested."""

    name: str
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    orders: tuple[int, ...] | None
    select: dict[str, Any] | None
    recipe: dict[str, Any]
    settings: tuple[Setting, ...]

    def trials(self, part: str, settings: Sequence[Setting] | None = None) -> list[Trial]:
        """The runs of all settings, or of some; `part` is "validation" or "test"."""
        return [
            trial for setting in (self.settings if settings is None else settings) for trial in getattr(setting, part)
        ]


def plan_sweep(
    recipe: dict[str, Any], axes: Sequence[Axis], seeds: int = 1, orders: int | None = None, select: bool = False
) -> Plan:
    """A plan of a resolved recipe. Raises `ConfigError` for a comparison, a wrong grid, and class orders where there are none.

    Seeds count from the recipe's; orders are the seeds 0, 1, ... of the order of classes (`stream.order_seed`).
    """
    name = str(recipe["name"])
    if "rows" in recipe:
        raise ConfigError(f"recipe {name} is a comparison of rows; sweep a recipe of one run (those of the rows, say)")
    top = Section(recipe, name)
    if orders is not None:
        _check_ordered(top)
    for key, option in (("seed", "--seeds"), ("stream.order_seed", "--orders")):
        if any(axis.key == key for axis in axes):
            raise ConfigError(f"--grid {key}: give {option} instead, whose runs belong together")
    given = _held_out(top)
    held = given if select else None
    first = top.take("seed", 0, WholeNumber)
    numbers = None if orders is None else tuple(range(orders))
    settings = []
    for values in combinations(axes):
        changed = _changed(recipe, values)
        folder = folder_name(values) or name
        trials: list[Trial] = []
        chosen_by: list[Trial] = []
        for order in numbers or (None,):
            for seed in range(first, first + seeds):
                one = {**copy.deepcopy(changed), "seed": seed}
                if order is not None:
                    one["stream"]["order_seed"] = order
                place = f"{folder}{'' if order is None else f'-order{order}'}-seed{seed}"
                trials.append(Trial(place, seed, order, one))
                if held is not None:
                    chosen_by.append(Trial(f"{VALIDATION}/{place}", seed, order, _measured_on(one, held)))
        settings.append(Setting(folder, _method(changed), values, tuple(trials), tuple(chosen_by)))
    _check_names(settings)
    return Plan(name, tuple(axes), tuple(range(first, first + seeds)), numbers, held, recipe, tuple(settings))


def _changed(recipe: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with the values of a setting; a method of the grid takes the place of the recipe's, options included."""
    changed = copy.deepcopy(recipe)
    for key in sorted(values, key=lambda key: key != METHOD):
        set_key(changed, key, copy.deepcopy(values[key]), f"--grid {key}={shown(values[key])}")
    return changed


def _method(recipe: Mapping[str, Any]) -> str:
    """The methods of a recipe by name."""
    method = recipe.get(METHOD)
    several = method if isinstance(method, (list, tuple)) else [method]
    return " + ".join(str(one["name"]) if isinstance(one, Mapping) and "name" in one else str(one) for one in several)


def _held_out(top: Section) -> dict[str, Any]:
    """The validation data of a recipe, else a share of the training part."""
    joint = is_joint(top.values)
    given = (top if joint else top.section("stream")).take("validation", None)
    found = Validation.of(given, top.recipe, "validation" if joint else "stream.validation")
    if found is not None and found.instead_of_test:
        raise ConfigError(
            f"recipe {top.recipe}: leave out instead_of_test: a sweep sets it itself, with --select validation"
        )
    return dict(SHARE if given is None else given)


def _measured_on(recipe: dict[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe measured on what it holds out of the training part."""
    validation = {**held, "instead_of_test": True}
    if is_joint(recipe):
        return {**recipe, "validation": validation}
    return {**recipe, "stream": {**recipe["stream"], "validation": validation}}


def _check_ordered(top: Section) -> None:
    stream = {} if is_joint(top.values) else top.section("stream").values
    if stream.get("type") not in ORDERED or "tasks" in stream:
        raise ConfigError(
            f"recipe {top.recipe}: --orders is for streams that split the classes of one data set ({', '.join(ORDERED)})"
        )
    if stream.get("order") is not None:
        raise ConfigError(f"recipe {top.recipe}: stream.order fixes the order of the classes; leave out --orders")


def _check_names(settings: Sequence[Setting]) -> None:
    names = [setting.name for setting in settings]
    for name in names:
        if names.count(name) > 1 or Path(name).name != name or name == VALIDATION:
            raise ConfigError(f"two settings would be run in the folder {name!r}; give values that differ in a name")
