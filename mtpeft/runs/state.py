"""The saved state of a run: nested plain values with tensors in them; a kill at any moment loses nothing.

A state folder holds one file per part (safetensors; its plain values are in the header), named by its content, a journal
that says which file each part is in, and `state.json`, which says how much of the journal counts and what its SHA-256
is. Saving writes the parts that changed, appends a line for each to the journal, and renames `state.json` last: the cost
is that of what changed, however much was saved before. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mtpeft.errors import CheckpointError
from mtpeft.files import append, sha256, write_atomic

FORMAT = 2
INDEX = "state.json"
HEAD = ("", "")
"""The part with everything that is in no `Parts`."""
COMPACT_ABOVE = 4
"""Lines of the journal for each live part, above which it is written anew."""


class Parts(dict[Hashable, Any]):
    """A mapping of which each value is saved by itself, and only when it changed.

    `name` tells the mappings of one state apart. Keys are strings or whole numbers. With `partial`, keys that are not
    given stay as they were saved; else they are dropped. Read back, it is a plain mapping of all its parts.
    """

    def __init__(self, name: str, values: Mapping[Any, Any], partial: bool = False) -> None:
        """A copy of `values`."""
        super().__init__(values)
        self.name, self.partial = name, partial


def pack(value: Any, tensors: dict[str, torch.Tensor], parts: dict[str, Parts] | None = None) -> Any:
    """`value` as JSON types, its tensors moved into `tensors` and its `Parts` into `parts`.

    Takes mappings, lists, tuples, sets and scalars; `TypeError` for anything else.
    """
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"__tensor__": name}
    if isinstance(value, Parts):
        if parts is None or value.name in parts:
            raise TypeError(f"parts {value.name!r} stand inside a part, or twice in a state")
        parts[value.name] = value
        return {"__parts__": value.name}
    if isinstance(value, Mapping):
        return {"__items__": [[pack(k, tensors), pack(v, tensors, parts)] for k, v in value.items()]}
    if isinstance(value, (tuple, set)):
        tag = "__tuple__" if isinstance(value, tuple) else "__set__"
        members = value if isinstance(value, tuple) else sorted(value)
        return {tag: [pack(v, tensors, parts) for v in members]}
    if isinstance(value, list):
        return [pack(v, tensors, parts) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"cannot save a {type(value).__name__} as a plain value")


def unpack(
    value: Any, tensors: Mapping[str, torch.Tensor], parts: Mapping[str, Mapping[Any, Any]] | None = None
) -> Any:
    """The inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(v, tensors, parts) for v in value]
    if not isinstance(value, dict):
        return value
    (tag, content), *_ = value.items()
    if tag == "__tensor__":
        return tensors[content]
    if tag == "__parts__":
        return dict((parts or {}).get(content, {}))
    if tag == "__items__":
        return {unpack(k, tensors): unpack(v, tensors, parts) for k, v in content}
    members = [unpack(v, tensors, parts) for v in content]
    return tuple(members) if tag == "__tuple__" else set(members)


class State:
    """The state in one folder, read and written."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read or made yet."""
        self.folder = folder
        self._journal: _Journal | None = None

    @property
    def exists(self) -> bool:
        """Whether something was saved."""
        return (self.folder / INDEX).exists()

    def read(self) -> dict[str, Any] | None:
        """What was written last, or None when there is nothing; `CheckpointError` when it is damaged."""
        if not self.exists:
            return None
        self._journal = _Journal.read(self.folder)
        parts: dict[str, dict[Any, Any]] = {}
        for (name, key), digest in self._journal.live.items():
            if (name, key) == HEAD:
                continue
            try:
                parts.setdefault(name, {})[key] = unpack(*self._load(digest))
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(self.folder / _file(digest), error) from None
        try:
            return unpack(*self._load(self._journal.live[HEAD]), parts)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.folder / INDEX, error) from None

    def write(self, value: Mapping[str, Any]) -> None:
        """Save `value`: the parts that are not what they were when saved last."""
        if self._journal is None:
            self._journal = _Journal.read(self.folder) if self.exists else _Journal(self.folder)
            self._sweep(self._journal)
        journal = self._journal
        tensors: dict[str, torch.Tensor] = {}
        parts: dict[str, Parts] = {}
        plain = pack(value, tensors, parts)
        changed: dict[tuple[str, Any], str | None] = {}
        self._put(changed, HEAD, plain, tensors)
        for name, members in parts.items():
            for key, member in members.items():
                own: dict[str, torch.Tensor] = {}
                self._put(changed, (name, key), pack(member, own), own)
        for name, key in journal.live:
            kept = name in parts and (parts[name].partial or key in parts[name])
            if (name, key) != HEAD and not kept:
                changed[name, key] = None
        if changed:
            before = set(journal.live.values())
            self._journal = journal.commit(changed)
            for digest in before - set(self._journal.live.values()):
                (self.folder / _file(digest)).unlink(missing_ok=True)

    def _put(
        self,
        changed: dict[tuple[str, Any], str | None],
        part: tuple[str, Any],
        plain: Any,
        own: dict[str, torch.Tensor],
    ) -> None:
        """Write a part's file, unless it is there already."""
        assert self._journal is not None
        data = save_tensors(own, metadata={"value": json.dumps(plain)})
        digest = sha256(data)
        if self._journal.live.get(part) != digest:
            write_atomic(self.folder / _file(digest), data)
            changed[part] = digest

    def _sweep(self, journal: _Journal) -> None:
        """Remove what a kill left between writing files and making them count."""
        needed = {journal.file.name, *(_file(digest) for digest in journal.live.values())}
        for file in (*self.folder.glob("part-*"), *self.folder.glob("journal-*"), *self.folder.glob(".*.*")):
            if file.name not in needed:
                file.unlink(missing_ok=True)

    def _load(self, digest: str) -> tuple[Any, dict[str, torch.Tensor]]:
        file = self.folder / _file(digest)
        try:
            data = file.read_bytes()
            if sha256(data) != digest:
                raise _damaged(file, "its SHA-256 is another")
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            return json.loads(header["__metadata__"]["value"]), load_tensors(data)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(file, error) from None


class _Journal:
    """Which file every part is in, as lines [name, key, digest] (null for a part that is dropped)."""

    def __init__(self, folder: Path, number: int = 0) -> None:
        self.folder, self.number = folder, number
        self.live: dict[tuple[str, Any], str] = {}
        self.lines = self.length = 0
        self.hash = hashlib.sha256()

    @classmethod
    def read(cls, folder: Path) -> _Journal:
        """The journal of a folder, as far as `state.json` says; what was appended after that never counted."""
        index = folder / INDEX
        try:
            content = json.loads(index.read_text())
            if content.get("format") != FORMAT:
                raise CheckpointError(f"{index} was written by another version of mtpeft; start again with --fresh")
            journal = cls(folder, int(content["journal"]))
            data = journal.file.read_bytes()[: content["length"]]
            if sha256(data) != content["sha256"] or len(data) != content["length"]:
                raise _damaged(journal.file, "its SHA-256 is another")
            journal._take(data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise _damaged(index, error) from None
        return journal

    @property
    def file(self) -> Path:
        """Where its lines are."""
        return self.folder / f"journal-{self.number}.jsonl"

    def commit(self, changed: Mapping[tuple[str, Any], str | None]) -> _Journal:
        """Append the changes and make them count; returns the journal to go on with, a new one where this was long."""
        if self.lines + len(changed) <= COMPACT_ABOVE * (len(self.live) + len(changed)):
            self._append(changed)
            return self
        fresh = _Journal(self.folder, self.number + 1)
        fresh._append({part: digest for part, digest in {**self.live, **changed}.items() if digest is not None})
        self.file.unlink(missing_ok=True)
        return fresh

    def _append(self, changed: Mapping[tuple[str, Any], str | None]) -> None:
        data = "".join(json.dumps([*part, digest]) + "\n" for part, digest in changed.items()).encode()
        append(self.file, data, self.length)
        self._take(data)
        content = {"format": FORMAT, "journal": self.number, "length": self.length, "sha256": self.hash.hexdigest()}
        write_atomic(self.folder / INDEX, json.dumps(content) + "\n")

    def _take(self, data: bytes) -> None:
        for line in data.splitlines():
            name, key, digest = json.loads(line)
            if digest is None:
                self.live.pop((name, key), None)
            else:
                self.live[name, key] = digest
            self.lines += 1
        self.length += len(data)
        self.hash.update(data)


def _file(digest: str) -> str:
    return f"part-{digest[:32]}.safetensors"


def _damaged(file: Path, error: object) -> CheckpointError:
    return CheckpointError(f"{file} is damaged ({error}); start again with --fresh")
