"""The stream a recipe asks for, of class labels (of images or clips) or of dense labels, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mtpeft.data.dense.stream import DENSE, DenseStream, build_dense_stream
from mtpeft.data.streams import Stream, build_stream
from mtpeft.data.task_list import build_task_list
from mtpeft.data.validation import Validation, hold_out
from mtpeft.errors import ConfigError


def build_scenario(
    section: Mapping[str, Any], data_config: Mapping[str, Any], augment: Any, seed: int, recipe: str
) -> Stream | DenseStream:
    """The stream of the recipe's keys `stream` and `augment`: its `first` tasks, and validation data, where it asks for them.

    Raises `ConfigError` for validation data of dense tasks, by which nothing is chosen.
    """
    section = dict(section)
    first = section.pop("first", None)
    stream = _build(section, data_config, augment, seed, recipe)
    return stream if first is None else _shortened(stream, first, recipe)


def _build(
    section: Mapping[str, Any], data_config: Mapping[str, Any], augment: Any, seed: int, recipe: str
) -> Stream | DenseStream:
    if section.get("type") != DENSE:
        options = dict(section)
        validation = Validation.of(options.pop("validation", None), recipe, "stream.validation")
        built = (
            build_task_list(options, data_config, augment, recipe)
            if "tasks" in options
            else build_stream(options, data_config, augment)
        )
        return built if validation is None else hold_out(built, validation)
    if section.get("validation") is not None:
        raise ConfigError(
            f"recipe {recipe}: nothing is chosen by validation data on a stream of dense tasks: leave out stream.validation"
        )
    if augment is not None:
        raise ConfigError(
            f"recipe {recipe}: augment changes images alone, dense labels must follow: use stream.transforms.train"
        )
    return build_dense_stream(section, data_config, seed, recipe)


def _shortened(stream: Stream | DenseStream, first: Any, recipe: str) -> Stream | DenseStream:
    """Its first tasks, and of a split the classes of those."""
    if not isinstance(first, int) or isinstance(first, bool) or not 1 <= first <= len(stream):
        raise ConfigError(
            f"recipe {recipe}: stream.first is {first!r}, expected 1 to {len(stream)}, the number of tasks"
        )
    if isinstance(stream, DenseStream):
        return replace(stream, tasks=stream.tasks[:first])
    tasks = stream.tasks[:first]
    classes = len({label for task in tasks for label in task.classes})
    order, names = stream.class_order[:classes], stream.class_names[:classes]
    return replace(stream, tasks=tasks, class_order=order, class_names=names)


def wants_baselines(key: bool | None, stream: Stream | DenseStream, recipe: str) -> bool:
    """The recipe's key `baselines`; without it they are made for class labels, which is all they can be made for."""
    dense = isinstance(stream, DenseStream)
    if key and dense:
        raise ConfigError(
            f"recipe {recipe}: the baselines (linear probe, nearest class mean) classify images; a stream of dense "
            "tasks has none: leave the key baselines out"
        )
    return not dense if key is None else bool(key)
