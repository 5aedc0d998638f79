"""Data made up in the place of files that are not there: for plans of runs, which measure nothing of what is learnt."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mtpeft.data.dense.build import DENSE_DATASETS
from mtpeft.data.sources import dataset_options
from mtpeft.data.video.clips import is_video

KEY = "generated"
#: keys that say how many items of a class a stream keeps
COUNTS = ("train_per_class", "test_per_class")


def made_up(value: Any, least: int) -> Any:
    """`value`, a part of a recipe, with made-up data wherever it describes a data set that can be made up.

    Each class gets as many items as the recipe keeps of it, and `least`.
    """
    amount = max([least, *_per_class(value)])
    return _made_up(value, amount)


def offline(value: Any) -> Any:
    """`value` with nothing downloaded and no file checked beforehand, which would be written down."""
    if not isinstance(value, Mapping):
        return value
    never = {key: False for key in ("download", "check") if value.get(key) is True}
    return {**{key: offline(inner) for key, inner in value.items()}, **never}


def is_made_up(value: Any) -> bool:
    """Whether some data set in `value` is to be made up."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return (isinstance(value, Mapping) and bool(value.get(KEY))) or any(is_made_up(part) for part in inner)


def counted(value: Any) -> bool:
    """Whether the recipe itself says how many items made-up data sets have."""
    if not isinstance(value, Mapping):
        return True
    known = any(key in value for key in COUNTS) or value.get("name") in DENSE_DATASETS
    return known or (KEY not in value and all(counted(inner) for inner in value.values()))


def _made_up(value: Any, amount: int) -> Any:
    if not isinstance(value, Mapping):
        return value
    changed = {key: _made_up(inner, amount) for key, inner in value.items()}
    return {**changed, KEY: amount} if _can_be(value) else changed


def _can_be(config: Mapping[str, Any]) -> bool:
    """Whether it describes a data set, of images, clips or dense labels, that has the option."""
    kind, name = config.get("type"), config.get("name")
    if isinstance(kind, str):
        return is_video(config) or KEY in dataset_options(kind)
    return (
        isinstance(name, str)
        and name in DENSE_DATASETS
        and KEY in inspect.signature(DENSE_DATASETS.get(name)).parameters
    )


def _per_class(value: Any) -> Iterator[int]:
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if key in COUNTS and isinstance(inner, int) and not isinstance(inner, bool):
            yield inner
        yield from _per_class(inner)
