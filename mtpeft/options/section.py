"""Options, read so that none goes unnoticed: those a callable takes, and the keys of a recipe's sections."""

from __future__ import annotations

import builtins
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, get_type_hints

from mtpeft.errors import ConfigError, nearest
from mtpeft.options.declared import take
from mtpeft.options.words import shown


class Option(NamedTuple):
    """What an entry says of one option. `default` is `inspect.Parameter.empty` where there is none."""

    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty


def options_of(entry: Any) -> Mapping[str, Option]:
    """The options of a dataclass (its fields), a class (its constructor's parameters) or a function, in order.

    A constructor that hands `**options` on also has those of the next class in line.
    """
    return _options_of(entry)


@functools.cache
def _options_of(entry: Any) -> Mapping[str, Option]:
    if dataclasses.is_dataclass(entry):
        hints, empty = _hints(entry), inspect.Parameter.empty
        return {f.name: Option(hints[f.name], _default(f, empty)) for f in dataclasses.fields(entry) if f.init}
    found: dict[str, Option] = {}
    for function in _constructors(entry) if inspect.isclass(entry) else [entry]:
        hints, parameters = _hints(function), inspect.signature(function).parameters.values()
        for parameter in list(parameters)[inspect.isclass(entry) :]:  # without self
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, Option(hints.get(parameter.name, Any), parameter.default))
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def check_fields(instance: Any, what: str) -> None:
    """Set every field of a dataclass, frozen or not, to its value as its annotation takes it.

    For `__post_init__`. Raises `ConfigError` that names `what` ("method 'lora'"), the field, its value and what it takes.
    """
    for name, option in options_of(type(instance)).items():
        object.__setattr__(instance, name, take(option.annotation, getattr(instance, name), f"{what}: {name}"))


def check_options(
    what: str,
    entry: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    given: Iterable[str] = (),
    others: Iterable[str] = (),
    section: str = "",
) -> dict[str, Any]:
    """The options as `entry` takes them, each as its annotation has it.

    Raises `ConfigError` for an option that `entry` does not take, one that it needs and `options` lack, and a value
    that its annotation does not take. `what` is the entry in messages ("transform 'crop'"). `given` are the parameters
    the caller fills in itself, `others` more names to offer for a wrong one, `section` the part of the recipe that
    options are in ("data").
    """
    filled = set(given)
    known = {name: option for name, option in options_of(entry).items() if name not in filled}
    for key in options:
        if key not in known:
            raise ConfigError(f"{what} takes no option {key!r}.{nearest(str(key), [*known, *others])}")
    for key, option in known.items():
        if option.required and key not in options:
            place = f" (key {section}.{key})" if section else ""
            raise ConfigError(f"{what} needs the option {key!r}{place}")
    return {key: take(known[key].annotation, value, f"{what}: {key}") for key, value in options.items()}


def _constructors(entry: Any) -> list[Callable[..., Any]]:
    return [vars(cls)["__init__"] for cls in entry.__mro__ if "__init__" in vars(cls) and cls is not object]


def _default(field: dataclasses.Field[Any], empty: Any) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return empty if field.default is dataclasses.MISSING else field.default


def _hints(holder: Any) -> dict[str, Any]:
    """The annotations of a class or function; a name that exists for type checkers alone says nothing."""
    try:
        return get_type_hints(holder, include_extras=True)
    except NameError:
        found: dict[str, Any] = {}
        for part in reversed(holder.__mro__[:-1]) if inspect.isclass(holder) else [holder]:
            scope = _Scope(vars(builtins) | vars(sys.modules[part.__module__]))
            for name, text in inspect.get_annotations(part).items():
                found[name] = eval(text, {}, scope) if isinstance(text, str) else text
        return found


class _Scope(dict[str, Any]):
    """Names of a module; any other name is `Any`."""

    def __missing__(self, name: str) -> Any:
        return Any


class Section:
    """A mapping of a recipe that remembers which keys were read; `finish` refuses those that were not."""

    def __init__(self, values: Mapping[str, Any], recipe: str, path: str = "") -> None:
        """`recipe` and `path` name the place in error messages. Raises `ConfigError` for values that are no mapping."""
        if not isinstance(values, Mapping):
            place = path.removesuffix(".") or "it"
            raise ConfigError(f"recipe {recipe}: {place} must be a mapping (dict(...)), got {shown(values)}")
        self.values, self.recipe, self.path = dict(values), recipe, path
        self.known: set[str] = set()

    def take(self, key: str, default: Any = ..., kind: Any = Any) -> Any:
        """The value of `key`, as the annotation `kind` has it; without a default the key is required."""
        self.known.add(key)
        if key in self.values:
            return take(kind, self.values[key], f"recipe {self.recipe}: {self.path}{key}")
        if default is ...:
            raise ConfigError(f"recipe {self.recipe}: key {self.path}{key} is missing")
        return default

    def section(self, key: str) -> Section:
        """A nested mapping, empty when it is not there."""
        return Section(self.take(key, {}), self.recipe, f"{self.path}{key}.")

    def fields(self, cls: type) -> dict[str, Any]:
        """All keys, which must be fields of the dataclass `cls`, each value as the field's annotation has it."""
        options = options_of(cls)
        self.known |= set(options)
        self.finish()
        where = f"recipe {self.recipe}: {self.path}"
        return {key: take(options[key].annotation, value, f"{where}{key}") for key, value in self.values.items()}

    def finish(self) -> None:
        """Raise `ConfigError` for the first key nothing reads, with the nearest ones."""
        for key in self.values:
            if key not in self.known:
                raise ConfigError(
                    f"recipe {self.recipe}: nothing reads the key {self.path}{key}.{nearest(key, self.known)}"
                )
