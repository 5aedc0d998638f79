"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtpeft.errors import MtpeftError


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write `data` to `path` through a temporary file in the same folder, fsync and rename.

    A kill at any moment leaves either the old file or the new one. Raises `MtpeftError` (and leaves the old file
    untouched) when the disk is full or read-only.
    """
    target = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise MtpeftError(
            f"cannot write {target}: {error.strerror or error}; what was there before is unchanged"
        ) from error


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Raise `MtpeftError` unless files can be written into a folder, which need not exist. Leaves nothing behind."""
    place = Path(folder).absolute()
    existing = next(path for path in (place, *place.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise MtpeftError(f"cannot write into {folder}: {existing}: {error.strerror or error}") from error


def append(path: str | os.PathLike[str], data: bytes, at: int) -> None:
    """Put `data` behind the first `at` bytes of a file, which is made where it is missing, and fsync.

    What stood behind them (of an append that a kill cut short) goes. Raises `MtpeftError` when it cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "r+b" if target.exists() else "wb") as stream:
            stream.truncate(at)
            stream.seek(at)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if at == 0:
            _sync_folder(target.parent)
    except OSError as error:
        raise MtpeftError(f"cannot write {target}: {error.strerror or error}") from error


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def seal(content: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON of `content` that carries the SHA-256 of itself under the key "seal"; `unseal` reads it back.

    Raises `TypeError` for a value that JSON cannot hold.
    """
    text = json.dumps(content, indent=indent, sort_keys=True)
    return json.dumps({**content, "seal": sha256(text.encode())}, indent=indent, sort_keys=True)


def unseal(data: bytes, indent: int | None = None) -> dict[str, Any]:
    """The content of a sealed file. Raises `ValueError` unless it is, byte for byte, what `seal` wrote."""
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or content.pop("seal", None) is None:
            raise ValueError("it is not sealed")
        same = seal(content, indent).encode() == data
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not same:
        raise ValueError("its seal is not that of its content")
    return content


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable (POSIX only; elsewhere folders cannot be opened)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
