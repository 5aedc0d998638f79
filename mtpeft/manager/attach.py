"""`attach`: from a backbone and a method's name to a task manager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

import mtpeft.backbones.embedded
import mtpeft.backbones.pvt
import mtpeft.backbones.t2t_vit  # noqa: F401  (these register the library's own backbones with timm)
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError, MtpeftError, UnknownNameError
from mtpeft.hooks.attachment import Attachment, check_sharing, refusal
from mtpeft.manager.manager import TaskManager
from mtpeft.manager.proof import prove
from mtpeft.methods import METHODS, MethodConfig, MethodSpec
from mtpeft.options import shown

#: characters of another library's message that go into one of ours
LONGEST = 240
Method = str | MethodConfig | Mapping[str, Any]


def attach(
    backbone: str | nn.Module,
    method: Method | Sequence[Method],
    *,
    sharing: str | Mapping[str, Any] | None = None,
    pretrained: bool = True,
    backbone_train_mode: bool = False,
    **options: Any,
) -> TaskManager:
    """Attach one method, or several that act together, to a backbone.

    `backbone`: a timm model, or a timm name (created with `pretrained` weights and no classifier). `method`: a
    registered name with its `options` as keyword arguments, a config object, a mapping `{"name": ..., ...}` (which may
    carry its own "sharing"), or a list of these. `sharing`: per_task (the default), shared, hyperformer, polyhistor or
    another registered source, by name or as a mapping `{"name": ..., ...}` with the source's options.
    `backbone_train_mode` lets `train()` reach the frozen backbone (dropout, drop path).

    Attaching proves that it runs, by one forward of two zero images (`mtpeft.manager.proof`). Raises `UnknownNameError` and
    `ConfigError`, one line that names method and model, and leaves the backbone as it was.
    """
    resolved = resolve_methods(method, sharing, options)
    model = create_backbone(backbone, pretrained) if isinstance(backbone, str) else backbone
    names = [spec.name for spec, _, _ in resolved]
    if isinstance(model, OptimizedModule):
        reason = "it is compiled, and a manager would run it uncompiled; attach to the model itself, then compile the manager"
        raise refusal(names, model._orig_mod, reason)
    try:
        anatomy = Anatomy(model)
    except ConfigError as error:
        raise ConfigError(f"method {' and '.join(map(repr, names))} cannot be attached: {error}") from error
    try:
        attachments = [Attachment(spec, config, anatomy, *_named(source)) for spec, config, source in resolved]
        parameter = next(model.parameters())
        for attachment in attachments:
            attachment.to(device=parameter.device, dtype=parameter.dtype)
        manager = TaskManager(model, attachments, anatomy, backbone_train_mode)
    except MtpeftError:
        raise
    except Exception as error:  # whatever a method says to sites it does not fit
        raise refusal(names, model, _first_line(error)) from error
    try:
        prove(manager)
    except Exception as error:
        manager.detach()
        raise refusal(names, model, str(error) if isinstance(error, MtpeftError) else _first_line(error)) from error
    return manager


def resolve_methods(
    method: Method | Sequence[Method],
    sharing: str | Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[tuple[MethodSpec, MethodConfig, str | Mapping[str, Any]]]:
    """What `attach` makes of its method argument: specs, configs and weight sources; raises before anything is built."""
    several = not isinstance(method, (str, MethodConfig, Mapping))
    if several and not isinstance(method, (list, tuple)):
        raise ConfigError(f"method is {shown(method)}, expected a name, a mapping with a 'name', or a list of these")
    methods: list[Method] = list(method) if several else [method]  # type: ignore[arg-type, list-item]
    if several and options:
        raise ConfigError(
            f"options {sorted(options)} belong to one method; with a list give each as a mapping or a config"
        )
    resolved = [_resolve(m, dict(options or {}), sharing) for m in methods]
    for _, _, source in resolved:
        check_sharing(*_named(source))
    return resolved


def create_backbone(name: str, pretrained: bool = True, **options: Any) -> nn.Module:
    """A timm model without classifier; `UnknownNameError` with near names, one line when weights cannot be had.

    `name` is a name timm knows, or one with a source: `hf-hub:organisation/name`, `local-dir:path`.
    """
    if ":" not in name and "/" not in name and not timm.is_model(name.split(".")[0]):
        raise UnknownNameError("model", name, timm.list_models())
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        text = str(error).rpartition("() ")[2].strip().partition("\n")[0]
        raise ConfigError(f"model {name!r} cannot be created: {text}") from error
    except Exception as error:  # timm and the hub's client raise what they like
        if not pretrained or ":" in name or "/" in name:
            raise ConfigError(f"model {name!r} cannot be created: {_first_line(error)}") from error
        raise ConfigError(
            f"pre-trained weights of {name!r} cannot be had ({_first_line(error)}); "
            "give a timm model with weights, or pretrained=False for random ones"
        ) from error


def _first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says, not longer than a line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__} {lines[0][:LONGEST]}".strip()


def _named(source: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A weight source's name and options."""
    if isinstance(source, str):
        return source, {}
    if not isinstance(source, Mapping) or "name" not in source:
        raise ConfigError(f"sharing is {shown(source)}, expected a name, or a mapping with a 'name'")
    return source["name"], {k: v for k, v in source.items() if k != "name"}


def _resolve(
    method: Method, options: dict[str, Any], sharing: str | Mapping[str, Any] | None
) -> tuple[MethodSpec, MethodConfig, str | Mapping[str, Any]]:
    if isinstance(method, MethodConfig):
        if options:
            raise ConfigError(f"options {sorted(options)} beside a config object; use dataclasses.replace(config, ...)")
        found = [METHODS.get(n) for n in METHODS if METHODS.get(n).config is type(method)]
        if len(found) != 1:
            names = [spec.name for spec in found]
            raise ConfigError(f"{type(method).__name__} belongs to {names or 'no registered method'}; give the name")
        spec, config = found[0], method
    else:
        if isinstance(method, Mapping):
            values = {**method, **options}
            if "name" not in values:
                raise ConfigError(f"method is {shown(values)}, expected a name, or a mapping with a 'name'")
            sharing = values.pop("sharing", sharing)
            method, options = values.pop("name"), values
        spec = METHODS.get(method)  # type: ignore[arg-type]
        config = spec.build_config(options)
    return spec, config, spec.sharings[0] if sharing is None else sharing
