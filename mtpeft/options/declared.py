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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mtpeft.errors import ConfigError, nearest


@dataclass(frozen=True)
class Range:
    """Limits of a number; `odd` numbers only, where set."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    odd: bool = False

    def __contains__(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (not self.odd or value % 2 == 1)
        )

    def __str__(self) -> str:
        low = f"from {self.at_least:g}" if self.at_least is not None else ""
        low = f"above {self.above:g}" if self.above is not None else low
        high = f"{'to' if low else 'up to'} {self.at_most:g}" if self.at_most is not None else ""
        high = f"{'to ' if low else ''}below {self.below:g}" if self.below is not None else high
        return " ".join(part for part in (low, high) if part)


@dataclass(frozen=True)
class Length:
    """How many items a list has, or characters a text."""

    at_least: int = 0
    at_most: int | None = None

    def __contains__(self, size: int) -> bool:
        return self.at_least <= size and (self.at_most is None or size <= self.at_most)


@dataclass(frozen=True)
class OneOf:
    """The words a text is one of, where they come from a table: `Annotated[str, OneOf(tuple(ACTIVATIONS))]`."""

    words: tuple[str, ...]


#: a number of something that must be there: a rank, a width, a count of tokens
Count = Annotated[int, Range(at_least=1)]
#: an odd size of a convolution's kernel
OddSize = Annotated[int, Range(at_least=1, odd=True)]
#: a share that may be dropped: dropout, drop path
Rate = Annotated[float, Range(at_least=0, below=1)]
#: a spread, a weight or a limit that may be 0
NotNegative = Annotated[float, Range(at_least=0)]
#: a factor or a temperature that must not be 0
Positive = Annotated[float, Range(above=0)]
#: a part of something, neither nothing nor all of it
Share = Annotated[float, Range(above=0, below=1)]
#: a number of something that may be none
WholeNumber = Annotated[int, Range(at_least=0)]
#: a name that is not empty
Name = Annotated[str, Length(at_least=1)]

NoneType = type(None)
#: whole numbers beyond it are none that an array can be sized, indexed or filled by
LARGEST = 2**63 - 1
LISTS = (tuple, list, Sequence)
MAPPINGS = (dict, Mapping)


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


def shown(value: Any) -> str:
    """A value in one line of an error message."""
    text = " ".join(repr(value).split()) if not (isinstance(value, int) and abs(value) > 10**60) else "a huge number"
    return text if len(text) <= 80 else text[:60] + " (and so on)"


def expected(annotation: Any, several: bool = False) -> str:
    """What an annotation takes, in words; `several` of it."""
    base, marks = _parts(annotation)
    origin = get_origin(base)
    if (words := choices(annotation)) is not None:
        return ("words" if several else "one") + " of " + ", ".join(map(str, words))
    if origin in (Union, types.UnionType):
        return " or ".join(expected(member, several) for member in get_args(base))
    if base in (int, float):
        limits = [mark for mark in marks if isinstance(mark, Range)]
        odd = "odd " if any(mark.odd for mark in limits) else ""
        noun = "whole number" if base is int else "number"
        article = "" if several else "an " if odd else "a "
        return " ".join([f"{article}{odd}{noun}{'s' if several else ''}", *(str(mark) for mark in limits if str(mark))])
    if base is bool:
        return "True or False"
    if base is str:
        named = any(isinstance(mark, Length) and mark.at_least for mark in marks)
        return ("names" if several else "a name") if named else ("texts" if several else "a text")
    if base is NoneType:
        return "None"
    if _origin(base) in LISTS:
        return _expected_list(base, marks)
    if _origin(base) in MAPPINGS:
        return "mappings" if several else "a mapping"
    return f"{'objects' if several else 'an object'} of type {getattr(base, '__name__', str(base))}"


def choices(annotation: Any) -> tuple[Any, ...] | None:
    """The values of a `Literal` or `OneOf`, or None for an annotation that lists none."""
    base, marks = _parts(annotation)
    if get_origin(base) is Literal:
        return get_args(base)
    if get_origin(base) in (Union, types.UnionType):
        parts = [choices(member) for member in get_args(base)]
        return None if None in parts else tuple(word for words in parts if words for word in words)
    words = [mark.words for mark in marks if isinstance(mark, OneOf)]
    return words[0] if words else None


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone."""
    base, _ = _parts(annotation)
    return get_args(base) if get_origin(base) in (Union, types.UnionType) else (annotation,)


def wrong_values(annotation: Any) -> list[Any]:
    """Values an annotation does not take: other types, the nearest beyond each limit, unknown words, not finite numbers.

    Empty where it takes everything.
    """
    found: list[Any] = [
        object(),
        True,
        "no such word",
        "",
        -1,
        1.5,
        math.nan,
        math.inf,
        -math.inf,
        [],
        [object()],
        {"no": 1},
    ]
    found += [None, "8", 8.0, 10**400]
    for member in members(annotation):
        base, marks = _parts(member)
        for mark in marks:
            if isinstance(mark, Range):
                found += _beyond(mark, 1 if base is int else 1e-6)
        if _origin(base) in LISTS and get_args(base):
            item = get_args(base)[0]
            found += [[wrong] for wrong in wrong_values(item)]
    return [value for value in found if not fits(annotation, value)]


class _Unfit(Exception):
    """The value is none the annotation takes."""


def _beyond(limits: Range, step: float) -> Iterable[float]:
    if limits.at_least is not None:
        yield limits.at_least - step
    if limits.above is not None:
        yield limits.above
    if limits.at_most is not None:
        yield limits.at_most + step
    if limits.below is not None:
        yield limits.below
    if limits.odd:
        yield (limits.at_least or 0) + 1


def _parts(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type of an annotation, and its marks."""
    if get_origin(annotation) is Annotated:
        base, *marks = get_args(annotation)
        return base, tuple(marks)
    return annotation, ()


def _origin(base: Any) -> Any:
    origin = get_origin(base) or base
    return {Sequence: Sequence, Mapping: Mapping}.get(origin, origin)


def _take(annotation: Any, value: Any) -> Any:
    base, marks = _parts(annotation)
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
    if _origin(base) in LISTS:
        return _items(base, value)
    if _origin(base) in MAPPINGS:
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
    if _origin(base) is tuple and kinds[-1] is not ...:
        if len(kinds) != len(value):
            raise _Unfit
        return tuple(_take(kind, item) for kind, item in zip(kinds, value, strict=True))
    return tuple(_take(kinds[0], item) for item in value)


def _expected_list(base: Any, marks: tuple[Any, ...]) -> str:
    kinds = get_args(base)
    if _origin(base) is tuple and kinds and kinds[-1] is not ...:
        same = len(set(kinds)) == 1
        return f"a list of {len(kinds)} {expected(kinds[0], True) if same else 'items'}"
    sizes = [mark for mark in marks if isinstance(mark, Length)]
    if sizes and sizes[0].at_most == 0:
        return "nothing, an empty list"
    items = expected(kinds[0], True) if kinds and kinds[0] is not Any else "items"
    return f"a list of {'one or more ' if sizes and sizes[0].at_least else ''}{items}"


def _hint(annotation: Any, value: Any) -> str:
    words = choices(annotation)
    near = nearest(value, map(str, words)) if words and isinstance(value, str) else ""
    return f".{near}" if near.startswith(" Did") else ""
