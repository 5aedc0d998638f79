"""The classes of torchvision.datasets as training and test part.

A class takes its part as `train` (true or false), also where only a class it inherits from does (EMNIST, whose `split` is
another matter and the user's), or else as `split`. Pictures are read by our reader where the class takes a `loader`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mtpeft.data.reading import read_picture
from mtpeft.errors import ConfigError, DataError, UnknownNameError, nearest

SPLITS = {
    "FGVCAircraft": ("trainval", "test"),
    "ImageNet": ("train", "val"),
    "Imagenette": ("train", "val"),
    "OxfordIIITPet": ("trainval", "test"),
    "Places365": ("train-standard", "val"),
}
"""What classes call their parts that have no "train" and "test"."""


def build_torchvision(kind: str, train: bool, arguments: Mapping[str, Any]) -> Any:
    """The part of `kind`, "torchvision.NAME". Raises as `mtpeft.data.sources.build_dataset` does."""
    from torchvision import datasets

    name = kind.removeprefix("torchvision.")
    factory = getattr(datasets, name, None)
    if name not in datasets.__all__ or not inspect.isclass(factory):
        known_names = [f"torchvision.{known}" for known in datasets.__all__]
        raise UnknownNameError("data set", kind, known_names, "key data.type")
    given = part_arguments(kind, factory, train, arguments)
    try:
        return factory(**given)
    except (RuntimeError, OSError, ValueError, ImportError, EOFError) as error:
        place = f" in {given['root']}" if "root" in given else ""
        raise DataError(f"{kind}{place}: {one_line(error)}") from error


def part_arguments(kind: str, factory: type, train: bool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What to call `factory` with. Raises `DataError` for a class without two parts, `ConfigError` for arguments."""
    parameters, given = all_parameters(factory), dict(arguments)
    if "frames_per_clip" in parameters:
        raise DataError(
            f"{kind} gives videos, which streams read by data sets of their own: see the recipe continual/k400_aim"
        )
    if "train" not in parameters and "split" not in parameters:
        raise DataError(f"{kind} has no training and test part of its own; lay its images out for type='ImageFolder'")
    own = "train" if "train" in parameters else "split"
    if own == "split":
        splits = given.pop("splits", None) or SPLITS.get(kind.removeprefix("torchvision."), ("train", "test"))
        if not isinstance(splits, list | tuple) or len(splits) != 2 or splits[0] == splits[1]:
            raise ConfigError(f"{kind}: data.splits must be the names of two different parts, got {splits!r}")
        given["split"] = splits[0 if train else 1]
        check_arguments(kind, parameters, {k: v for k, v in given.items() if k != "split" or k in arguments}, {"split"})
    else:
        check_arguments(kind, parameters, given, {"train"})
        given["train"] = train
    if "loader" in parameters:
        given.setdefault("loader", read_picture)
    return given


def all_parameters(factory: type) -> dict[str, inspect.Parameter]:
    """The parameters of the constructor, and where it hands **kwargs on, of the one it inherits."""
    found: dict[str, inspect.Parameter] = {}
    for base in factory.__mro__:
        if "__init__" not in vars(base):
            continue
        own = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        for parameter in own:
            if parameter.kind not in variadic:
                found.setdefault(parameter.name, parameter)
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in own):
            break
    return found


def check_arguments(
    kind: str, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any], exclude: set[str]
) -> None:
    """Raise `ConfigError` for arguments that are not among `parameters`, or `exclude`d, and for those that lack."""
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name not in exclude]
    for name in arguments:
        if name not in known:
            raise ConfigError(f"data set {kind!r} takes no argument {name!r}.{nearest(name, known)}")
    needed = {name for name in known if parameters[name].default is inspect.Parameter.empty}
    missing = sorted(needed - set(arguments))
    if missing:
        raise ConfigError(f"data set {kind!r} needs the argument {', '.join(missing)}")


def one_line(error: BaseException) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split())
