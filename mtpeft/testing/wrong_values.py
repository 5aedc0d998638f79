"""Values that an option does not take, made from its declaration; recipes with values of other types."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

from mtpeft.errors import MtpeftError
from mtpeft.options import fits
from mtpeft.options.annotations import LISTS, Range, members, origin_of, parts_of


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
        base, marks = parts_of(member)
        for mark in marks:
            if isinstance(mark, Range):
                found += _beyond(mark, 1 if base is int else 1e-6)
        if origin_of(base) in LISTS and get_args(base):
            item = get_args(base)[0]
            found += [[wrong] for wrong in wrong_values(item)]
    return [value for value in found if not fits(annotation, value)]


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


#: of other types than most keys have
OTHERS: tuple[Any, ...] = (0, -1, 1.5, "x", True, [], {}, ["x"], {"x": 1}, None)


def changed_recipes(recipe: dict[str, Any], every: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what was changed, the recipe with it): each key at every depth, list items among them, set to `OTHERS`.

    With `every` false each key gets one of them, in turn.
    """
    for number, path in enumerate(_paths(recipe)):
        values = OTHERS if every else OTHERS[number % len(OTHERS) :][:1]
        for value in values:
            changed = copy.deepcopy(recipe)
            holder: Any = changed
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = copy.deepcopy(value)
            yield f"{'.'.join(map(str, path))}={value!r}", changed


def check_changed_recipes(recipe: dict[str, Any], build: Callable[[dict[str, Any]], object], every: bool) -> int:
    """Build every one of `changed_recipes`: how many were refused, in one line each; `AssertionError` for any other end."""
    refused = 0
    for change, changed in changed_recipes(recipe, every):
        try:
            build(changed)
        except MtpeftError as error:
            refused += 1
            if "\n" in str(error):
                raise AssertionError(f"{change}: more than a line: {error}") from error
        except Exception as error:
            raise AssertionError(f"{change}: {type(error).__name__}: {error}") from error
    return refused


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from _paths(part, (*path, key))
