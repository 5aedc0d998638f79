"""Domains of one set of classes: corrupted views of one data set, or data sets of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtpeft.data.corruptions import build_corruption
from mtpeft.data.images import Images
from mtpeft.data.labelled import Labelled, build_labelled_parts, check_apart
from mtpeft.errors import ConfigError


def corrupted_domains(
    train: Images, test: Images, domains: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Images, Images]]:
    """One domain per config of `build_corruption`, such as `dict(type="rotation", degrees=30)`; `name` may be added."""
    made = []
    for config in domains:
        arguments = dict(config)
        values = [str(value) for key, value in arguments.items() if key not in ("type", "name")]
        name = arguments.pop("name", None) or "_".join([str(arguments.get("type")), *values]).replace(".", "p")
        corruption = build_corruption(arguments)
        if corruption is None:
            made.append((name, train, test))
        else:
            made.append((name, train.corrupted(corruption), test.corrupted(corruption)))
    return made


def own_domains(
    domains: Mapping[str, Any], data: Any, data_config: Mapping[str, Any], augment: Any
) -> list[tuple[str, Labelled, Labelled]]:
    """(name, training part, test part) of each domain, whose keys change those of `data`.

    Raises `DataError` for a file that one domain trains on and another has, too.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"stream: data must be a mapping such as dict(type='ImageFolder'), got {data!r}")
    found = []
    for name, own in domains.items():
        if not isinstance(own, Mapping):
            raise ConfigError(f"stream.domains.{name} must be a mapping such as dict(root=...), got {own!r}")
        described = {**data, **own}
        if "type" not in described:
            raise ConfigError(
                f"stream.domains.{name} has no type: give it there, or as stream.data=dict(type='ImageFolder')"
            )
        found.append((str(name), *build_labelled_parts(described, data_config, augment)))
    check_apart(found)
    return found
