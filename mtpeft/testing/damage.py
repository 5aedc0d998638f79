"""Random changes to saved files, for tests that nothing which was changed is taken for what was written."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

#: what takes a value's place: other types, none, huge and negative numbers, not a number, nested ones
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    3,
    0.5,
    10**30,
    -(10**30),
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    [],
    [[[]]],
    ["x", 1],
    {},
    {"x": {"y": [None]}},
)


def damaged_bytes(data: bytes, generator: random.Random) -> bytes:
    """`data` with a flipped bit, a missing end, an added byte, or nothing left; never the same."""
    kind = generator.choice(("flip", "flip", "cut", "add", "empty"))
    place = generator.randrange(len(data))
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ (1 << generator.randrange(8))]) + data[place + 1 :]
    if kind == "add":
        return data[:place] + bytes([generator.randrange(256)]) + data[place:]
    return data[:place] if kind == "cut" else b""


def damaged_json(content: Any, generator: random.Random) -> Any:
    """A copy of plain content with one change at a random depth: a value, or a key removed, renamed, added or doubled."""
    while True:
        changed = copy.deepcopy(content)
        holder, key = generator.choice(list(_places(changed)))
        generator.choice(_CHANGES)(holder, key, generator)
        if json.dumps(changed, sort_keys=True) != json.dumps(content, sort_keys=True):
            return changed


def _places(content: Any) -> list[tuple[Any, Any]]:
    found = []
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        found += [(content, key), *_places(value)]
    return found


def _replace(holder: Any, key: Any, generator: random.Random) -> None:
    holder[key] = copy.deepcopy(generator.choice(VALUES))


def _remove(holder: Any, key: Any, generator: random.Random) -> None:
    del holder[key]


def _rename(holder: Any, key: Any, generator: random.Random) -> None:
    if isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)


def _add(holder: Any, key: Any, generator: random.Random) -> None:
    value = copy.deepcopy(generator.choice(VALUES))
    if isinstance(holder, dict):
        holder["unknown"] = value
    else:
        holder.append(value)


def _double(holder: Any, key: Any, generator: random.Random) -> None:
    if isinstance(holder, list):  # a task or a method twice
        holder.append(copy.deepcopy(holder[key]))


_CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (_replace, _replace, _remove, _rename, _add, _double)
