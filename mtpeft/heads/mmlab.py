"""Everything mtpeft knows about the packages mmcv and mmsegmentation, which the extra `dense` installs.

They are imported when first needed. mmsegmentation imports compiled operators that `mmcv-lite` does not have; a stub
takes their place, and whatever uses one fails with the operator's name. A real mmcv is used where it is installed, and
the maintained fork onedl-mmsegmentation, which has the same import name, needs no stub.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any, NoReturn

from torch import nn

from mtpeft.errors import ConfigError, UnknownNameError

EXTRA = 'pip install "mtpeft[dense]"'
REFUSALS = (TypeError, ValueError, AssertionError, KeyError, AttributeError, ImportError, RuntimeError, IndexError)
"""What modules of mmsegmentation raise for a config or an input that they cannot use."""
FULL = "needs mmcv with compiled operators, which mmcv-lite does not have: install the full mmcv"


class CompiledOperatorMissing(ConfigError):
    """A compiled operator of mmcv was called where only mmcv-lite is installed."""


class _Operators(ModuleType):
    """Stands for `mmcv._ext`: any name can be imported from it, none can be called."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*args: Any, **kwargs: Any) -> NoReturn:
            raise CompiledOperatorMissing(f"operator {name} {FULL}")

        return operator


def _needs_stub() -> bool:
    """Whether mmseg could not be imported as it is: upstream's without the operators of a full mmcv."""
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext") is not None:
        return False
    try:
        importlib.metadata.version("onedl-mmsegmentation")
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


@cache
def _import() -> None:
    """Import mmseg once, with the stub where it is needed. Raises `ConfigError` when a package is absent."""
    try:
        if _needs_stub():
            sys.modules["mmcv._ext"] = _Operators("mmcv._ext")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Fail to import")  # mmcv without its operators says so each time
            importlib.import_module("mmseg.models")
            importlib.import_module("mmseg.evaluation")
    except ImportError as error:
        raise ConfigError(f"dense tasks need mmsegmentation: {EXTRA} ({error})") from error
    except AssertionError as error:  # mmseg checks the versions of mmcv and mmengine so
        raise ConfigError(f"mmsegmentation refuses an installed package: {reason(error)} {EXTRA}") from error


def mmseg(module: str) -> Any:
    """A module of mmsegmentation, as in `mmseg("mmseg.datasets")`. Raises `ConfigError` when it is not installed."""
    _import()
    return importlib.import_module(module)


def build(config: dict[str, Any]) -> nn.Module:
    """Build a module of mmsegmentation from `config`, whose `type` may leave out the scope `mmseg.`; initialise it.

    Raises `UnknownNameError` for an unknown type, and `ConfigError` with the reason when the module refuses the config.
    """
    models = mmseg("mmseg.registry").MODELS
    name = str(config.get("type", "")).removeprefix("mmseg.")
    if name not in models.module_dict:
        raise UnknownNameError("type", name, models.module_dict, "mmsegmentation module")
    _check_types({**config, "type": name})
    try:
        with warnings.catch_warnings():
            # mmseg's own decode heads call the function it deprecates
            warnings.filterwarnings("ignore", message="``build_loss`` would be deprecated")
            module = models.build({**config, "type": f"mmseg.{name}"})
    except REFUSALS as error:
        raise ConfigError(f"mmseg.{name}: {reason(error)}") from error
    if hasattr(module, "init_weights"):
        _initialise(module)
    return module


def _check_types(config: Any) -> None:
    """Raise `UnknownNameError` for a `type` inside a config that is not registered.

    MMEngine would import what it names, and call it: "os.system" is such a name.
    """
    if isinstance(config, (list, tuple)):
        for part in config:
            _check_types(part)
    if not isinstance(config, Mapping):
        return
    for part in config.values():
        _check_types(part)
    if isinstance(name := config.get("type"), str):
        known = _registered()
        if name.removeprefix("mmseg.").removeprefix("mmengine.") not in known:
            raise UnknownNameError("type", name, known, "config of an mmsegmentation module")


def _registered() -> set[str]:
    """Names of modules, initialisers and samplers that configs may name."""
    registries = [mmseg(place).MODELS for place in ("mmseg.registry", "mmengine.registry")]
    registries += [mmseg("mmengine.registry").WEIGHT_INITIALIZERS, mmseg("mmseg.registry").TASK_UTILS]
    return {name for registry in registries for name in registry.module_dict}


def reason(error: BaseException) -> str:
    """One line of what an exception of a foreign module says."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split("__init__() ")[-1]


def _initialise(module: Any) -> None:
    """Initialise as the module's authors chose, without a log line for every parameter."""
    logger = importlib.import_module("mmengine.logging").MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        module.init_weights()
    finally:
        logger.setLevel(level)
