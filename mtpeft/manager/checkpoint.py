"""Saving and loading a manager: trained weights as safetensors, everything else in a JSON manifest.

A folder holds `manifest.json` and the weights file the manifest names by content, so that saving over an older
checkpoint is one rename of the manifest. Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mtpeft._version import __version__
from mtpeft.errors import CheckpointError, ConfigError
from mtpeft.files import seal, sha256, unseal, write_atomic
from mtpeft.manager.protocol import Managed
from mtpeft.options import Name, shown, take

FORMAT = 2
MANIFEST = "manifest.json"
INDENT = 2
WORD, ANYTHING = Name, dict[str, Any]
#: what a manifest holds, by section; `methods` and `tasks` are lists of these
SECTIONS: dict[str, dict[str, Any]] = {
    "backbone": {"class": WORD, "architecture": str | None, "fingerprint": WORD, "forced": bool},
    "methods": {"name": WORD, "config": ANYTHING, "sharing": WORD, "sharing_options": ANYTHING},
    "tasks": {"name": WORD, "head": ANYTHING, "frozen": bool},
    "weights": {"file": WORD, "sha256": WORD},
}
LISTS = ("methods", "tasks")
PLAIN = {"format": int, "mtpeft": str, "active": str | None}


def describe(manager: Managed) -> dict[str, Any]:
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


def save(manager: Managed, path: str | Path) -> None:
    """Write the manager's trained weights and manifest into folder `path`; atomic, also over an older checkpoint."""
    folder = Path(path)
    data = save_tensors({k: v.detach().cpu().contiguous() for k, v in manager.trained_state().items()})
    digest = sha256(data)
    name = f"weights-{digest[:16]}.safetensors"
    manifest = {**describe(manager), "weights": {"file": name, "sha256": digest}}
    try:
        text = seal(manifest, INDENT)
    except TypeError as error:
        raise CheckpointError(f"cannot save {path}: {error}; give methods and heads options of plain types") from None
    write_atomic(folder / name, data)
    write_atomic(folder / MANIFEST, text)
    for old in folder.glob("weights-*.safetensors"):
        if old.name != name:
            old.unlink()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a saved manager; `CheckpointError` when there is none, it is damaged, or not as it should be."""
    file = Path(path) / MANIFEST
    try:
        manifest = unseal(file.read_bytes(), INDENT)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} is no saved manager: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); take another copy") from None
    version = manifest.get("format")
    if version != FORMAT:
        raise CheckpointError(f"{file} has format {shown(version)}, this version reads {FORMAT}; update mtpeft")
    try:
        _check_section(manifest, {**PLAIN, **dict.fromkeys(SECTIONS, Any)}, "manifest")
        for name, fields in SECTIONS.items():
            parts = take(list[Any], manifest[name], name) if name in LISTS else [manifest[name]]
            for part in parts:
                _check_section(take(ANYTHING, part, name), fields, name)
    except ConfigError as error:
        raise CheckpointError(f"{file} is not what this version writes: {error}") from None
    return manifest


def _check_section(section: Mapping[str, Any], fields: Mapping[str, Any], name: str) -> None:
    """Raise `ConfigError` unless a section has exactly these keys, with values that they take."""
    for key in sorted(section.keys() ^ fields.keys()):
        raise ConfigError(f"{name} {'lacks' if key in fields else 'has an unknown'} key {shown(key)}")
    for key, annotation in fields.items():
        take(annotation, section[key], f"{name}.{key}")


def read_weights(folder: Path, manifest: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors a manifest names; `CheckpointError` when the file is gone or is not the one that was written."""
    file = folder / manifest["weights"]["file"]
    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot read {file}: {reason}; the manifest names it") from None
    if sha256(data) != manifest["weights"]["sha256"]:
        raise CheckpointError(f"{file} is damaged: its SHA-256 is not the manifest's; take another copy")
    try:
        return load_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} holds no weights ({shown(str(error))}); take another copy") from None
