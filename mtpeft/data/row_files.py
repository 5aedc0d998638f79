"""Rows on disk: numpy files that are read where they lie (memory-mapped), each named by the hash of what it holds.

A file holds pairs of an image's digest and its row. Files are written whole and under their final name at once, and only
added: a kill loses the rows of one file at most, and processes that write at the same time do no harm. The name binds
content and key together, so a damaged file, or one from elsewhere, is told by its name.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.files import seal, sha256, write_atomic

try:
    import fcntl
except ImportError:  # no POSIX: rows of other keys are never removed
    fcntl = None  # type: ignore[assignment]

Array = np.ndarray
GIB = 2**30
ROWS, BYTES = 1024, 2**26
"""Rows of one file at most, and their bytes."""
LOCK = "in-use"


class RowFiles:
    """The rows of one key in folder `root`, which may hold those of others; together they take up to `limit` bytes.

    What is damaged or foreign is removed and told to `tell`, and its rows are missing then. Where there is no room left, the
    rows of the keys that were not used for longest are removed, unless a process has them open.
    """

    def __init__(
        self,
        root: Path,
        key: Mapping[str, Any],
        width: int,
        dtype: Any,
        limit: int,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Open what is there; nothing is written before rows are. Raises `MtpeftError` where `root` cannot be written."""
        self.root, self.limit, self.tell = root, limit, tell
        self.key = seal(key)
        self.folder = root / sha256(self.key.encode())[:32]
        self.kind = np.dtype([("image", "u1", (32,)), ("row", np.dtype(dtype), (width,))])
        self.at_once = max(1, min(ROWS, BYTES // self.kind.itemsize))
        self.files: list[Path] = []
        self._maps: list[Array | None] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._new: dict[bytes, Array] = {}
        self._lock: IO[bytes] | None = self._held() if self.folder.is_dir() else None
        for file in sorted(self.folder.glob("*.npy")):
            self._open(file)

    def __contains__(self, image: bytes) -> bool:
        return image in self._places or image in self._new

    def add(self, image: bytes, row: Array) -> None:
        """Keep a row; `flush` or the next full file puts it on disk."""
        self._new[image] = row
        if len(self._new) >= self.at_once:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet. Raises `ConfigError` where there is no room, `MtpeftError` where writing fails."""
        if not self._new:
            return
        rows = np.empty(len(self._new), self.kind)
        for place, (image, row) in enumerate(self._new.items()):
            rows[place]["image"], rows[place]["row"] = np.frombuffer(image, "u1"), row
        stream = io.BytesIO()
        np.save(stream, rows, allow_pickle=False)
        data = stream.getbuffer()
        self._lock = self._lock or self._held()
        self._make_room(len(data))
        file = self.folder / f"{self._name(iter([data]))}.npy"
        write_atomic(file, bytes(data))
        self._new = {}
        self._open(file)

    def read(self, images: Sequence[bytes]) -> Array:
        """Rows (B, width), in the order of the images' digests. Raises `KeyError` for one that is missing."""
        found = np.empty((len(images), *self.kind["row"].shape), self.kind["row"].base)
        for place, image in enumerate(images):
            if image in self._new:
                found[place] = self._new[image]
            else:
                file, row = self._places[image]
                found[place] = self._map(file)[row]["row"]
        return found

    def check_room(self, rows: int) -> None:
        """Raise `ConfigError` when `rows` rows of this key can never fit."""
        size = rows * self.kind.itemsize
        free = shutil.disk_usage(_existing(self.root)).free + _size(self.folder)
        for most, what in ((self.limit, "cache.limit"), (free, f"the free space of {self.root}")):
            if size > most:
                raise ConfigError(f"{rows} rows of features take {_gib(size)}, more than {what}, {_gib(most)}")

    # inside -------------------------------------------------------------------------------------------------------

    def _name(self, parts: Any) -> str:
        digest = hashlib.sha256(self.key.encode())
        for part in parts:
            digest.update(part)
        return digest.hexdigest()

    def _open(self, file: Path) -> None:
        """Map a file that is what its name says; any other is removed."""
        try:
            with open(file, "rb") as stream:
                same = self._name(iter(lambda: stream.read(2**20), b"")) == file.stem
            rows = np.load(file, mmap_mode="r", allow_pickle=False) if same else None
        except (OSError, ValueError, EOFError):
            rows = None
        if rows is None or rows.dtype != self.kind:
            self.tell(f"{file} is damaged or not one of these: its rows are computed again")
            file.unlink(missing_ok=True)
            return
        for place, image in enumerate(rows["image"]):
            self._places[image.tobytes()] = len(self.files), place
        self.files.append(file)
        self._maps.append(rows)

    def _map(self, number: int) -> Array:
        rows = self._maps[number]
        if rows is None:  # in a process that got this object sent
            rows = self._maps[number] = np.load(self.files[number], mmap_mode="r", allow_pickle=False)
        return rows

    def _held(self) -> IO[bytes]:
        """A lock on the folder that others share and that keeps it from being removed; the folder is marked as used."""
        path = self.folder / LOCK
        while True:
            try:
                write_atomic(self.folder / "key.json", self.key)
                stream = open(path, "ab")  # noqa: SIM115
                path.touch()
            except OSError as error:
                raise MtpeftError(f"cannot write {path}: {error.strerror or error}") from error
            if fcntl is None:
                return stream
            fcntl.flock(stream, fcntl.LOCK_SH)
            if path.exists() and path.stat().st_ino == _inode(stream):
                return stream
            stream.close()  # removed in between

    def _make_room(self, size: int) -> None:
        others = [path.parent for path in self.root.glob(f"*/{LOCK}") if path.parent != self.folder]
        others.sort(key=lambda folder: (folder / LOCK).stat().st_mtime)
        while (found := self._lack(size)) is not None:
            if not others:
                raise ConfigError(
                    f"no room for more rows of features: {found}; raise cache.limit, give another cache.folder, or empty it"
                )
            self._remove(others.pop(0))

    def _lack(self, size: int) -> str | None:
        used, free = _size(self.root), shutil.disk_usage(self.root).free
        if used + size > self.limit:
            return f"{self.root} holds {_gib(used)} of cache.limit, {_gib(self.limit)}"
        return f"{_gib(free)} are free where {self.root} is" if size > free else None

    def _remove(self, folder: Path) -> None:
        """Remove the rows of a key that no process has open."""
        if fcntl is None:
            return
        try:
            with open(folder / LOCK, "ab") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                size = _size(folder)
                shutil.rmtree(folder)
        except OSError:  # in use, or gone
            return
        self.tell(f"{folder} ({_gib(size)}), not used for longest, was removed to make room for rows of features")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_maps": [None] * len(self._maps), "_lock": None, "tell": print}


def _inode(stream: IO[bytes]) -> int:
    return os.fstat(stream.fileno()).st_ino


def _size(folder: Path) -> int:
    sizes = []
    for file in folder.rglob("*.npy"):
        try:
            sizes.append(file.stat().st_size)
        except OSError:  # another process removed it
            continue
    return sum(sizes)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _gib(size: int) -> str:
    return f"{size / GIB:.3g} GiB"
