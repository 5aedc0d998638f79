"""Nested plain values with tensors in them, as JSON beside a safetensors file; written so that a kill loses nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mtpeft.errors import CheckpointError
from mtpeft.files import sha256, write_atomic


def pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON types, its tensors moved into `tensors`. Takes mappings, lists, tuples, sets and scalars."""
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"__tensor__": name}
    if isinstance(value, Mapping):
        return {"__items__": [[pack(k, tensors), pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (tuple, set)):
        tag = "__tuple__" if isinstance(value, tuple) else "__set__"
        members = value if isinstance(value, tuple) else sorted(value)
        return {tag: [pack(v, tensors) for v in members]}
    if isinstance(value, list):
        return [pack(v, tensors) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"cannot save a {type(value).__name__} as a plain value")


def unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    (tag, content), *_ = value.items()
    if tag == "__tensor__":
        return tensors[content]
    if tag == "__items__":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in content}
    members = [unpack(v, tensors) for v in content]
    return tuple(members) if tag == "__tuple__" else set(members)


def write_state(folder: Path, value: Any) -> None:
    """Write `value` to `folder`: the tensors under a name of their content, then the JSON that names them."""
    tensors: dict[str, torch.Tensor] = {}
    plain = pack(value, tensors)
    data = save_tensors(tensors)
    digest = sha256(data)
    file = f"state-{digest[:16]}.safetensors"
    write_atomic(folder / file, data)
    write_atomic(folder / "state.json", json.dumps({"tensors": file, "sha256": digest, "value": plain}))
    for old in folder.glob("state-*.safetensors"):
        if old.name != file:
            old.unlink()


def read_state(folder: Path) -> Any | None:
    """What `write_state` wrote, or None when there is nothing; `CheckpointError` when it is damaged."""
    file = folder / "state.json"
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
        data = (folder / content["tensors"]).read_bytes()
        if sha256(data) != content["sha256"]:
            raise CheckpointError(f"{folder / content['tensors']} is damaged; start again with --fresh")
        return unpack(content["value"], load_tensors(data))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); start again with --fresh") from None
