"""The structure of results.json as data, and a check that names the first key that does not fit.

In a specification a dict lists keys (a trailing "?" marks an optional one), a one-element list stands for a list of
such elements, and a `Leaf` for one value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mtpeft.errors import DataError, nearest


@dataclass(frozen=True)
class Leaf:
    """One value: `accepts` says whether it fits, `what` is what the error message asks for."""

    what: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class MapOf:
    """A mapping with free names as keys and values of one specification."""

    values: Any


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_numeric(value: Any) -> bool:
    return all(map(_is_numeric, value)) if isinstance(value, (list, tuple)) else value is None or _is_number(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (str, bool)) or _is_number(value)


def one_of(*choices: object) -> Leaf:
    """A leaf that accepts the given values only."""
    return Leaf("one of " + ", ".join(map(repr, choices)), lambda value: value in choices)


TEXT = Leaf("a text", lambda value: isinstance(value, str))
FLAG = Leaf("true or false", lambda value: isinstance(value, bool))
INTEGER = Leaf("an integer", _is_integer)
COUNT = Leaf("an integer of at least 0", lambda value: _is_integer(value) and value >= 0)
POSITIVE = Leaf("an integer of at least 1", lambda value: _is_integer(value) and value >= 1)
NUMBER = Leaf("a finite number", _is_number)
ENTRY = Leaf("a finite number or null", lambda value: value is None or _is_number(value))
PLAIN = Leaf("a value of plain types", _is_plain)
VALUE = Leaf("numbers and nulls", _is_numeric)


RESULTS: dict[str, Any] = {
    "schema": one_of(1),
    "kind": one_of("continual"),
    "name": TEXT,
    "seed": INTEGER,
    "recipe": MapOf(PLAIN),
    "backbone": {"name": TEXT, "fingerprint": TEXT},
    "input": {
        "size": VALUE,
        "mean": [NUMBER],
        "std": [NUMBER],
        "interpolation": TEXT,
        "images?": {"train": TEXT, "test": TEXT, "decoder?": TEXT},
        "video?": {"decoder": TEXT, "sampling": TEXT, "frames": POSITIVE, "skipped?": COUNT, "readers?": MapOf(COUNT)},
    },
    "scenario": one_of("task_incremental", "class_incremental", "domain_incremental", "dense_incremental"),
    "tasks": [
        {
            "name": TEXT,
            "metric": TEXT,
            "unit": TEXT,
            "higher_is_better": FLAG,
            "classes": [COUNT],
            "train_samples": POSITIVE,
            "test_samples": POSITIVE,
            "validation_samples?": POSITIVE,
        }
    ],
    "matrix": {"values": [[ENTRY]], "samples": [[COUNT]]},
    "reference": {"random_init": [ENTRY], "single_task?": [ENTRY]},
    "baselines": {
        "linear_probe?": {"values": [ENTRY], "curve?": [ENTRY]},
        "nearest_class_mean?": {"values": [ENTRY], "curve?": [ENTRY]},
    },
    "confusion?": [{"task": TEXT, "classes": [TEXT], "rows": [COUNT], "counts": [[COUNT]]}],
    "pictures?": TEXT,
    "continued?": [{"step": COUNT, "key": TEXT, "old": PLAIN, "new": PLAIN}],
    "feature_cache?": {"features": TEXT, "row_bytes": POSITIVE, "images": POSITIVE},
    "measures": [
        {"name": TEXT, "title": TEXT, "value": VALUE, "unit": TEXT, "formula": TEXT, "source": TEXT, "reason": TEXT}
    ],
    "parameters": {
        "method": COUNT,
        "norm_bias": COUNT,
        "head": COUNT,
        "buffers": COUNT,
        "backbone": COUNT,
        "trainable_per_task": MapOf(COUNT),
        "rule": TEXT,
    },
    "memory?": {
        "backbone": COUNT,
        "optimizer": TEXT,
        "precision": TEXT,
        "per_task": MapOf(
            {
                "trained": COUNT,
                "method": COUNT,
                "head": COUNT,
                "gradients": COUNT,
                "optimizer": COUNT,
                "activations": COUNT,
                "fixed": INTEGER,
            }
        ),
        "rule": TEXT,
    },
    "frozen": {"fingerprint_before": TEXT, "fingerprint_after": TEXT, "unchanged": FLAG},
    "curves": {"train_loss": [{"task": TEXT, "step": POSITIVE, "loss": NUMBER}]},
    "environment": {"python": TEXT, "torch": TEXT, "timm": TEXT, "mtpeft": TEXT, "threads": POSITIVE, "device?": TEXT},
}


def check(value: Any, spec: Any, place: str) -> None:
    """Raise `DataError` naming the first place in `value` that `spec` does not allow."""
    if isinstance(spec, Leaf):
        if not spec.accepts(value):
            raise DataError(f"{place} must be {spec.what}, got {_shown(value)}")
    elif isinstance(spec, list):
        if not isinstance(value, (list, tuple)):
            raise DataError(f"{place} must be a list, got {_shown(value)}")
        for index, item in enumerate(value):
            check(item, spec[0], f"{place}[{index}]")
    elif not isinstance(value, Mapping):
        raise DataError(f"{place or 'results'} must be a mapping, got {_shown(value)}")
    elif isinstance(spec, MapOf):
        for key, item in value.items():
            check(item, spec.values, _join(place, key))
    else:
        _check_keys(value, spec, place)


def _check_keys(value: Mapping[str, Any], spec: dict[str, Any], place: str) -> None:
    known = {key.rstrip("?"): key for key in spec}
    for key in value:
        if key not in known:
            raise DataError(f"unknown key {_join(place, key)!r}.{nearest(str(key), known)}")
    for key, declared in known.items():
        if key in value:
            check(value[key], spec[declared], _join(place, key))
        elif not declared.endswith("?"):
            raise DataError(f"key {_join(place, key)!r} is missing")


def _join(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
