"""What values an option takes, said once in its annotation: `rank: Count = 8`, `mode: Literal["kv", "qkv"] = "kv"`.

Checks, error messages, listings and generated tests all read the annotation, of a dataclass field or of a parameter:

- `int` takes whole numbers (of any integer type, never a bool), `float` finite numbers, `bool` True and False, `str` text;
- `Range` limits a number and `Length` a list or text: `Annotated[int, Range(at_least=1)]`, or one of the names below;
- `Literal` and `OneOf` list the words that are known;
- `tuple[X, ...]`, `tuple[X, Y]` and `Sequence[X]` take lists, `dict` mappings, `X | None` also None.

Any other class takes its instances, and an annotation that says nothing (`Any`, a callable) takes everything.
"""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Union, get_args, get_origin

from mtpeft.errors import ConfigError, nearest
from mtpeft.options.annotations import LARGEST, LISTS, MAPPINGS, Length, NoneType, Range, choices, origin_of, parts_of
from mtpeft.options.words import expected, shown


def take(annotation: Any, value: Any, what: str) -> Any:
    """`value` as the annotation has it: lists become tuples, whole numbers floats where a float is declared.

    Raises `ConfigError` in one line; `what` names the option ("method 'lora': rank").
    """
    try:
        return _take(annotation, value)
    except _Unfit:
        raise ConfigError(
            f"{what} is {shown(value)}, expected {expected(annotation)}{_hint(annotation, value)}"
        ) from None


def fits(annotation: Any, value: Any) -> bool:
    """Whether `take` accepts the value."""
    try:
        _take(annotation, value)
    except _Unfit:
        return False
    return True


class _Unfit(Exception):
    """The value is none the annotation takes."""


def _take(annotation: Any, value: Any) -> Any:
    base, marks = parts_of(annotation)
    origin = get_origin(base)
    if origin in (Union, types.UnionType):
        for member in get_args(base):
            if fits(member, value):
                return _take(member, value)
        raise _Unfit
    words = choices(annotation)
    if words is not None:
        if not any(type(word) is type(value) and word == value for word in words):
            raise _Unfit
        return value
    value = _typed(base, value)
    for mark in marks:
        if (isinstance(mark, Range) and value not in mark) or (isinstance(mark, Length) and len(value) not in mark):
            raise _Unfit
    return value


def _typed(base: Any, value: Any) -> Any:
    """`value` in the type `base`, its marks not looked at."""
    if base in _SCALARS:
        return _SCALARS[base](value)
    if origin_of(base) in LISTS:
        return _items(base, value)
    if origin_of(base) in MAPPINGS:
        if not isinstance(value, Mapping) or (
            get_args(base)[:1] == (str,) and not all(isinstance(k, str) for k in value)
        ):
            raise _Unfit
        return value
    if isinstance(base, type) and base not in (Any, object) and not isinstance(value, base):
        raise _Unfit
    return value


def _whole(value: Any) -> int:
    if isinstance(value, (bool, str)):
        raise _Unfit
    try:
        number = operator.index(value)
    except TypeError:
        raise _Unfit from None
    if abs(number) > LARGEST:
        raise _Unfit
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _Unfit
    try:
        number = float(value)
    except OverflowError:
        raise _Unfit from None
    if not math.isfinite(number):
        raise _Unfit
    return number


def _exactly(kind: type) -> Callable[[Any], Any]:
    def typed(value: Any) -> Any:
        if not isinstance(value, kind):
            raise _Unfit
        return value

    return typed


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    int: _whole,
    float: _number,
    bool: _exactly(bool),
    str: _exactly(str),
    NoneType: _exactly(NoneType),
}


def _items(base: Any, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _Unfit
    kinds = get_args(base)
    if not kinds:
        return tuple(value)
    if origin_of(base) is tuple and kinds[-1] is not ...:
        if len(kinds) != len(value):
            raise _Unfit
        return tuple(_take(kind, item) for kind, item in zip(kinds, value, strict=True))
    return tuple(_take(kinds[0], item) for item in value)


def _hint(annotation: Any, value: Any) -> str:
    words = choices(annotation)
    near = nearest(value, map(str, words)) if words and isinstance(value, str) else ""
    return f".{near}" if near.startswith(" Did") else ""
