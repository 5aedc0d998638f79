"""Saving and loading a manager: trained weights as safetensors, everything else in a JSON manifest.

A folder holds `manifest.json` and the weights file the manifest names by content, so that saving over an older
checkpoint is one rename of the manifest. Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from mtpeft._version import __version__
from mtpeft.errors import CheckpointError
from mtpeft.files import sha256, write_atomic

if TYPE_CHECKING:
    from mtpeft.manager import TaskManager

FORMAT = 1
MANIFEST = "manifest.json"
#: what loading reads from the manifest; `methods` and `tasks` are lists of these
FIELDS: dict[str, dict[str, type]] = {
    "backbone": {"class": str, "fingerprint": str, "forced": bool},
    "methods": {"name": str, "sharing": str, "config": dict},
    "tasks": {"name": str, "head": dict, "frozen": bool},
    "weights": {"file": str, "sha256": str},
}


def describe(manager: TaskManager) -> dict[str, Any]:
    """The manifest without its weights: backbone, methods, tasks, as plain types."""
    return {
        "format": FORMAT,
        "mtpeft": __version__,
        "backbone": {
            "class": type(manager.backbone).__name__,
            "architecture": (getattr(manager.backbone, "default_cfg", None) or {}).get("architecture"),
            "fingerprint": manager.fingerprint,
            "forced": manager.forced,
        },
        "methods": [
            {
                "name": a.spec.name,
                "sharing": a.sharing_name,
                "sharing_options": a.sharing_options,
                "config": dataclasses.asdict(a.config),
            }
            for a in manager.methods
        ],
        "tasks": [
            {"name": t, "head": manager.head_specs[t], "frozen": t in manager.frozen_tasks} for t in manager.tasks
        ],
        "active": manager.runtime.default,
    }


def save(manager: TaskManager, path: str | Path) -> None:
    """Write the manager's trained weights and manifest into folder `path`; atomic, also over an older checkpoint."""
    folder = Path(path)
    data = save_tensors({k: v.detach().cpu().contiguous() for k, v in manager.trained_state().items()})
    digest = sha256(data)
    name = f"weights-{digest[:16]}.safetensors"
    manifest = {**describe(manager), "weights": {"file": name, "sha256": digest}}
    try:
        text = json.dumps(manifest, indent=2, sort_keys=True)
    except TypeError as error:
        raise CheckpointError(f"cannot save {path}: {error}; give methods and heads options of plain types") from None
    write_atomic(folder / name, data)
    write_atomic(folder / MANIFEST, text)
    for old in folder.glob("weights-*.safetensors"):
        if old.name != name:
            old.unlink()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a saved manager; `CheckpointError` when there is none or it is damaged."""
    file = Path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_text())
        version = manifest["format"]
    except FileNotFoundError:
        raise CheckpointError(f"{path} is no saved manager: it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); take another copy") from None
    if version != FORMAT:
        raise CheckpointError(f"{file} has format {version}, this version reads {FORMAT}; update mtpeft")
    for key in FIELDS:
        parts = manifest.get(key)
        for part in parts if isinstance(parts, list) else [parts]:
            for name, kind in FIELDS[key].items():
                if not isinstance(part, dict) or not isinstance(part.get(name), kind):
                    raise CheckpointError(f"{file} is damaged ({key} without a valid {name!r}); take another copy")
    return manifest


def load(
    path: str | Path, backbone: str | nn.Module, *, heads: Mapping[str, nn.Module] | None = None, force: bool = False
) -> TaskManager:
    """Rebuild a saved manager on `backbone` (a timm model, or a timm name for its pre-trained weights).

    `heads` gives the modules of tasks whose head was a module of your own. Raises `CheckpointError` for a damaged or
    foreign file, and for a backbone with other weights than the one trained on unless `force` (which is recorded).
    """
    from mtpeft.attaching import attach

    manifest = read_manifest(path)
    tensors = _read_weights(Path(path), manifest)
    methods = [
        {"name": m["name"], "sharing": {"name": m["sharing"], **m.get("sharing_options", {})}, **m["config"]}
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
        if manifest.get("active") is not None:
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


def _read_weights(folder: Path, manifest: dict[str, Any]) -> dict[str, torch.Tensor]:
    file = folder / manifest["weights"]["file"]
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}; the manifest names it") from None
    if sha256(data) != manifest["weights"]["sha256"]:
        raise CheckpointError(f"{file} is damaged: its SHA-256 is not the manifest's; take another copy")
    return load_tensors(data)


def _restore_task(manager: TaskManager, task: dict[str, Any], heads: Mapping[str, nn.Module], path: Any) -> None:
    name, head = task["name"], dict(task["head"])
    if head["name"] != "custom":
        manager.add_task(name, head=head)
    elif name in heads:
        manager.add_task(name, head=heads[name])
    else:
        raise CheckpointError(
            f"{path}: task {name!r} has a head of your own ({head['class']}); pass heads={{{name!r}: module}}"
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
