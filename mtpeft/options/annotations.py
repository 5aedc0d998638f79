"""The marks of an annotation that say which values are taken, names for the common ones, and reading them."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin


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


def choices(annotation: Any) -> tuple[Any, ...] | None:
    """The values of a `Literal` or `OneOf`, or None for an annotation that lists none."""
    base, marks = parts_of(annotation)
    if get_origin(base) is Literal:
        return get_args(base)
    if get_origin(base) in (Union, types.UnionType):
        parts = [choices(member) for member in get_args(base)]
        return None if None in parts else tuple(word for words in parts if words for word in words)
    words = [mark.words for mark in marks if isinstance(mark, OneOf)]
    return words[0] if words else None


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone."""
    base, _ = parts_of(annotation)
    return get_args(base) if get_origin(base) in (Union, types.UnionType) else (annotation,)


def parts_of(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type of an annotation, and its marks."""
    if get_origin(annotation) is Annotated:
        base, *marks = get_args(annotation)
        return base, tuple(marks)
    return annotation, ()


def origin_of(base: Any) -> Any:
    """What a generic type is of: `tuple` of `tuple[int, ...]`; a type that is none is itself."""
    origin = get_origin(base) or base
    return {Sequence: Sequence, Mapping: Mapping}.get(origin, origin)
