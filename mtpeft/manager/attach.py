"""`attach`: from a backbone and a method's name to a task manager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from torch import nn

import mtpeft.backbones.embedded  # noqa: F401  (registers the embedded backbones with timm)
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.hooks.attachment import Attachment, check_sharing
from mtpeft.manager.manager import TaskManager
from mtpeft.methods import METHODS, MethodConfig, MethodSpec
from mtpeft.options import shown

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

    Raises `UnknownNameError` and `ConfigError` before anything on the backbone is changed.
    """
    resolved = resolve_methods(method, sharing, options)
    model = create_backbone(backbone, pretrained) if isinstance(backbone, str) else backbone
    anatomy = Anatomy(model)
    attachments = [Attachment(spec, config, anatomy, *_named(source)) for spec, config, source in resolved]
    parameter = next(model.parameters())
    for attachment in attachments:
        attachment.to(device=parameter.device, dtype=parameter.dtype)
    return TaskManager(model, attachments, anatomy, backbone_train_mode)


def resolve_methods(
    method: Method | Sequence[Method],
    sharing: str | Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[tuple[MethodSpec, MethodConfig, str | Mapping[str, Any]]]:
    """What `attach` makes of its method argument: specs, configs and weight sources; raises before anything is built."""
    several = not isinstance(method, (str, MethodConfig, Mapping))
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
    """A timm model without classifier; `UnknownNameError` with near names, one line when weights cannot be had."""
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise UnknownNameError("model", name, timm.list_models())
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        raise ConfigError(f"model {name!r} cannot be created: {str(error).rpartition('() ')[2]}") from error
    except (RuntimeError, OSError, ValueError) as error:
        if not pretrained:
            raise ConfigError(f"model {name!r} cannot be created: {_first_line(error)}") from error
        raise ConfigError(
            f"pre-trained weights of {name!r} cannot be had ({_first_line(error)}); "
            "give a timm model with weights, or pretrained=False for random ones"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__} {str(error).strip().partition(chr(10))[0][:120]}".strip()


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
