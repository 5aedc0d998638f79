"""`--grid method=all`: every registered method that the recipe's backbone takes, with its default options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtpeft.errors import ConfigError
from mtpeft.methods import METHODS
from mtpeft.options import Section
from mtpeft.runs.backbone import BackboneSection
from mtpeft.runs.sweep.grid import METHOD, Axis

ALL = {"name": "all"}


def spelled(axes: Sequence[Axis], recipe: Mapping[str, Any]) -> tuple[tuple[Axis, ...], dict[str, str]]:
    """The axes with `method=all` spelled out, and {method: reason} of those left out.

    A method that is named beside it, with options of its own say, is run as named.
    """
    refused: dict[str, str] = {}
    found = []
    for axis in axes:
        if axis.key == METHOD and ALL in axis.values:
            given = [value for value in axis.values if value != ALL]
            named = {value["name"] for value in given if isinstance(value, Mapping) and "name" in value}
            taken, refused = every_method(recipe, named)
            axis = Axis(METHOD, (*({"name": name} for name in taken), *given))
        found.append(axis)
    return tuple(found), refused


def every_method(recipe: Mapping[str, Any], named: set[str]) -> tuple[list[str], dict[str, str]]:
    """The methods that are not `named` and attach to the recipe's backbone, and {method: reason} of those that do not.

    Each is attached to a backbone of random weights, and detached. Raises `ConfigError` where none can be.
    """
    top = Section(dict(recipe), str(recipe["name"]))
    section = BackboneSection.read(top.section("backbone"))
    model, sharing = replace(section, pretrained=False).create(), recipe.get("sharing")
    taken, refused = [], {}
    for name in METHODS:
        if name in named:
            continue
        try:
            section.attach(model, name, sharing).detach()
        except ConfigError as error:
            refused[name] = str(error)
        else:
            taken.append(name)
    if not taken:
        reason = next(iter(refused.values()), "all are named")
        raise ConfigError(f"--grid method=all: no method can be attached: {reason}")
    return taken, refused
