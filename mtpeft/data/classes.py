"""Classes are matched by name: a part of a data set may number them in an order of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from mtpeft.errors import DataError

SHOWN = 5
"""Names that a message lists; the rest is counted."""


def same_classes(
    first: Mapping[int, str], second: Mapping[int, str], first_name: str, second_name: str
) -> dict[int, int]:
    """{label in the first: label of the class with the same name in the second}, ascending.

    Both are {label: class name}. Raises `DataError` that names the classes each lacks, or a name that two classes of one
    part share although the parts number them differently.
    """
    if dict(first) == dict(second):
        return {label: label for label in sorted(first)}
    lacks = [
        f"{where} lacks {listed(set(there.values()) - set(here.values()))}"
        for where, here, there in ((first_name, first, second), (second_name, second, first))
        if set(there.values()) - set(here.values())
    ]
    if lacks:
        raise DataError(f"{first_name} and {second_name} differ in their classes: {'; '.join(lacks)}")
    for where, names in ((first_name, first), (second_name, second)):
        twice = [name for name, count in Counter(names.values()).items() if count > 1]
        if twice:
            raise DataError(
                f"{where}: {Counter(names.values())[twice[0]]} classes are named {twice[0]!r}, so that {first_name} and "
                f"{second_name}, which number their classes differently, cannot be matched; give them names of their own"
            )
    place = {name: label for label, name in second.items()}
    return {label: place[first[label]] for label in sorted(first)}


def listed(names: Iterable[str]) -> str:
    """Names in quotes, the first few of them."""
    found = sorted(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(repr(name) for name in found[:SHOWN]) + more
