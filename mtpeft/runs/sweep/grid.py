"""`--grid KEY=VALUE,VALUE,...`: the values a key of the recipe takes in turn."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtpeft.errors import ConfigError
from mtpeft.runs.recipe import literal

#: the axis whose values are methods
METHOD = "method"
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Axis:
    """A key and its values. Those of `method` are names, mappings with a name, or lists of these; names become mappings."""

    key: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """From "training.optimizer.lr=1e-3,3e-3": values are Python literals, or texts. Raises `ConfigError`."""
        key, sign, rest = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"--grid {text!r}: write it as key=value,value, for example method=lora,ssf")
        parts = [part.strip() for part in _split(rest)]
        if not all(parts):
            raise ConfigError(f"--grid {text!r}: a value is empty; write it as {key}=value,value")
        values = [literal(part) for part in parts]
        if key == METHOD:
            values = [{"name": value} if isinstance(value, str) else value for value in values]
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"--grid {text!r}: {shown(value)} is given twice")
        return cls(key, tuple(values))


def combinations(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Every choice of one value for each key; the last axis changes fastest. Raises `ConfigError` for a key given twice."""
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"--grid {key} is given twice; give all its values in one, {key}=value,value")
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip(keys, values, strict=True))


def shown(value: Any) -> str:
    """A value in a table: a method by its name, with its options behind it."""
    if isinstance(value, Mapping) and "name" in value:
        options = ", ".join(f"{key}={shown(option)}" for key, option in value.items() if key != "name")
        return f"{value['name']} ({options})" if options else str(value["name"])
    if isinstance(value, (list, tuple)) and value:
        return " + ".join(map(shown, value))
    return value if isinstance(value, str) else repr(value)


def folder_name(values: Mapping[str, Any]) -> str:
    """What a setting is called in a path: "lora-lr=0.001"; the keys are as short as tells them apart."""
    parts = []
    for key, value in values.items():
        text = re.sub(r"[^\w.+=-]+", "_", shown(value)).strip("_.")[:60]
        parts.append(text if key == METHOD else f"{short(key, values)}={text}")
    return "-".join(parts)


def short(key: str, keys: Mapping[str, Any]) -> str:
    """The end of a dotted key that no other of `keys` has."""
    words = key.split(".")
    for start in range(len(words) - 1, 0, -1):
        end = ".".join(words[start:])
        if not any(other != key and (other == end or other.endswith(f".{end}")) for other in keys):
            return end
    return key


def _split(text: str) -> list[str]:
    """`text` at its commas, apart from those in brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return parts
