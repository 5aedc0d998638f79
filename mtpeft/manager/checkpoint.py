"""Saving and loading a manager: trained weights as safetensors, everything else in a JSON manifest.

A folder holds `manifest.json` and the weights file the manifest names by content, so that saving over an older
checkpoint is one rename of the manifest. Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mtpeft._version import __version__
from mtpeft.errors import CheckpointError
from mtpeft.files import sha256, write_atomic
from mtpeft.manager.protocol import Managed

FORMAT = 1
MANIFEST = "manifest.json"
#: what loading reads from the manifest; `methods` and `tasks` are lists of these
FIELDS: dict[str, dict[str, type]] = {
    "backbone": {"class": str, "fingerprint": str, "forced": bool},
    "methods": {"name": str, "sharing": str, "config": dict},
    "tasks": {"name": str, "head": dict, "frozen": bool},
    "weights": {"file": str, "sha256": str},
}


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


def read_weights(folder: Path, manifest: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors a manifest names; `CheckpointError` when the file is gone or is not the one that was written."""
    file = folder / manifest["weights"]["file"]
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}; the manifest names it") from None
    if sha256(data) != manifest["weights"]["sha256"]:
        raise CheckpointError(f"{file} is damaged: its SHA-256 is not the manifest's; take another copy")
    return load_tensors(data)
