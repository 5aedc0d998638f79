"""An annotation and a value in the words of an error message."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

from mtpeft.options.annotations import LISTS, MAPPINGS, Length, NoneType, Range, choices, origin_of, parts_of


def shown(value: Any) -> str:
    """A value in one line of an error message."""
    text = " ".join(repr(value).split()) if not (isinstance(value, int) and abs(value) > 10**60) else "a huge number"
    return text if len(text) <= 80 else text[:60] + " (and so on)"


def expected(annotation: Any, several: bool = False) -> str:
    """What an annotation takes, in words; `several` of it."""
    base, marks = parts_of(annotation)
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
    if origin_of(base) in LISTS:
        return _expected_list(base, marks)
    if origin_of(base) in MAPPINGS:
        return "mappings" if several else "a mapping"
    return f"{'objects' if several else 'an object'} of type {getattr(base, '__name__', str(base))}"


def _expected_list(base: Any, marks: tuple[Any, ...]) -> str:
    kinds = get_args(base)
    if origin_of(base) is tuple and kinds and kinds[-1] is not ...:
        same = len(set(kinds)) == 1
        return f"a list of {len(kinds)} {expected(kinds[0], True) if same else 'items'}"
    sizes = [mark for mark in marks if isinstance(mark, Length)]
    if sizes and sizes[0].at_most == 0:
        return "nothing, an empty list"
    items = expected(kinds[0], True) if kinds and kinds[0] is not Any else "items"
    return f"a list of {'one or more ' if sizes and sizes[0].at_least else ''}{items}"
