"""The stream a recipe asks for, of class labels (of images or clips) or of dense labels, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtpeft.data.dense.stream import DENSE, DenseStream, build_dense_stream
from mtpeft.data.streams import Stream, build_stream
from mtpeft.data.task_list import build_task_list
from mtpeft.data.validation import Validation, hold_out
from mtpeft.errors import ConfigError


def build_scenario(
    section: Mapping[str, Any], data_config: Mapping[str, Any], augment: Any, seed: int, recipe: str
) -> Stream | DenseStream:
    """The stream of the recipe's keys `stream` and `augment`, with validation data where `stream.validation` asks for them.

    Raises `ConfigError` for validation data of dense tasks, by which nothing is chosen.
    """
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


def wants_baselines(key: bool | None, stream: Stream | DenseStream, recipe: str) -> bool:
    """The recipe's key `baselines`; without it they are made for class labels, which is all they can be made for."""
    dense = isinstance(stream, DenseStream)
    if key and dense:
        raise ConfigError(
            f"recipe {recipe}: the baselines (linear probe, nearest class mean) classify images; a stream of dense "
            "tasks has none: leave the key baselines out"
        )
    return not dense if key is None else bool(key)
