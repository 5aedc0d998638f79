"""Rebuilding a saved manager on its backbone; nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtpeft.errors import CheckpointError
from mtpeft.manager.attach import attach
from mtpeft.manager.checkpoint import read_manifest, read_weights
from mtpeft.manager.manager import TaskManager


def load(
    path: str | Path, backbone: str | nn.Module, *, heads: Mapping[str, nn.Module] | None = None, force: bool = False
) -> TaskManager:
    """Rebuild a saved manager on `backbone` (a timm model, or a timm name for its pre-trained weights).

    `heads` gives the modules of tasks whose head was a module of your own. Raises `CheckpointError` for a damaged or
    foreign file, and for a backbone with other weights than the one trained on unless `force` (which is recorded).
    """
    manifest = read_manifest(path)
    tensors = read_weights(Path(path), manifest)
    methods = [
        {"name": m["name"], "sharing": {"name": m["sharing"], **m["sharing_options"]}, **m["config"]}
        for m in manifest["methods"]
    ]
    manager = attach(backbone, methods)
    try:
        _check_backbone(manager, manifest["backbone"], path, force)
        for task in manifest["tasks"]:
            _restore_task(manager, task, heads or {}, path)
        _restore_weights(manager, tensors, path)
        for task in manifest["tasks"]:
            if task["frozen"]:
                manager.freeze_task(task["name"])
        if manifest["active"] is not None:
            manager.set_task(manifest["active"])
    except Exception:
        manager.detach()  # the user's backbone comes back as it was
        raise
    return manager


def _check_backbone(manager: TaskManager, expected: dict[str, Any], path: Any, force: bool) -> None:
    same = manager.fingerprint == expected["fingerprint"]
    if not same and not force:
        raise CheckpointError(
            f"{path} was trained on the backbone {expected['class']} {expected['fingerprint'][:12]}, this one is "
            f"{type(manager.backbone).__name__} {manager.fingerprint[:12]}: load the same pre-trained weights, or pass force=True"
        )
    manager.forced = not same or expected["forced"]


def _restore_task(manager: TaskManager, task: dict[str, Any], heads: Mapping[str, nn.Module], path: Any) -> None:
    name, head = task["name"], dict(task["head"])
    if head.get("name") != "custom":
        manager.add_task(name, head=head)
    elif name in heads:
        manager.add_task(name, head=heads[name])
    else:
        raise CheckpointError(
            f"{path}: task {name!r} has a head of your own ({head.get('class')}); pass heads={{{name!r}: module}}"
        )


def _restore_weights(manager: TaskManager, tensors: dict[str, torch.Tensor], path: Any) -> None:
    own = manager.trained_state()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        what = f"lacks {missing[0]!r}" if missing else f"has {extra[0]!r} that nothing here takes"
        raise CheckpointError(f"{path} {what} ({len(missing)} missing, {len(extra)} unknown weights)")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, here it is {tuple(own[name].shape)}"
            )
    manager.load_state_dict(tensors, strict=False)
