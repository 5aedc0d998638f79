"""Recipes: MMEngine config files, found by name and changed by `--set`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError, UnknownNameError, nearest
from mtpeft.runs.paths import recipes_folder


def recipe_names() -> list[str]:
    """Names of the recipes that come with mtpeft: paths below recipes/ without the ending; bases are left out."""
    root = recipes_folder()
    return sorted(_name(file, root) for file in root.rglob("*.py") if not file.name.startswith("_"))


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by name; `UnknownNameError` with the nearest names."""
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return path
    names = recipe_names()
    wanted = name.removesuffix(".py").removeprefix("recipes/")
    found = [n for n in names if n == wanted or n.rsplit("/", 1)[-1] == wanted]
    if len(found) != 1:
        if found:
            raise ConfigError(f"recipe {name!r} is ambiguous: {', '.join(found)}")
        raise UnknownNameError("recipe", name, {*names, *(n.rsplit("/", 1)[-1] for n in names)})
    return recipes_folder() / f"{found[0]}.py"


def load_recipe(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved recipe as nested plain types; `overrides` are "a.b=value" texts, values as Python literals."""
    from mmengine.config import Config

    path = find_recipe(name)
    try:
        config = Config.fromfile(str(path), import_custom_modules=False)
    except FileNotFoundError as error:
        raise ConfigError(f"recipe {path}: its base {error.filename or error} does not exist") from None
    except (SyntaxError, NameError, TypeError, KeyError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {str(error).splitlines()[0]}") from None
    values = config.to_dict()
    values.setdefault("name", path.stem)
    for override in overrides:
        _override(values, override)
    return values


def literal(text: str) -> Any:
    """The value of a Python literal; any other text is itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def set_key(values: dict[str, Any], place: str, value: Any, given: str) -> None:
    """Set the dotted key `place`; the mappings on the way must exist, so that a typo is noticed.

    Raises `ConfigError` that says how it was `given` ("--set 'trainin.epochs=3'").
    """
    *parents, last = place.split(".")
    target: Any = values
    for depth, key in enumerate(parents):
        if isinstance(target, list) and key.isdigit() and int(key) < len(target):
            target = target[int(key)]
            continue
        if not isinstance(target, dict) or key not in target:
            raise ConfigError(
                f"{given}: the recipe has no {'.'.join(parents[: depth + 1])}.{nearest(key, _keys(target))}"
            )
        target = target[key]
    if not isinstance(target, dict):
        raise ConfigError(f"{given}: {'.'.join(parents)} is no mapping")
    target[last] = value


def _override(values: dict[str, Any], text: str) -> None:
    place, sign, raw = text.partition("=")
    if not sign or not place:
        raise ConfigError(f"--set {text!r}: write it as key=value, for example training.epochs=3")
    set_key(values, place, literal(raw), f"--set {text!r}")


def _keys(value: Any) -> Iterator[str]:
    return iter(value) if isinstance(value, dict) else iter(())


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).with_suffix("").as_posix()
