"""A folder of generated files with a manifest of their checksums: what is whole is kept, the rest is made again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from mtpeft.errors import DataError
from mtpeft.files import sha256, write_atomic

MANIFEST = "manifest.json"
_MAKING = ContextVar("making", default=True)


@contextmanager
def nothing_made() -> Iterator[None]:
    """Within it a folder that lacks files is a `DataError`: nothing is generated, nothing written."""
    before = _MAKING.set(False)
    try:
        yield
    finally:
        _MAKING.reset(before)


class Manifest:
    """The checksums of the files below `folder`, in its `manifest.json`; `what` names the contents in warnings."""

    def __init__(self, folder: Path, what: str) -> None:
        self.folder = folder
        self.what = what

    def read(self, stacklevel: int = 2) -> dict[str, str]:
        """Name to SHA-256; empty when there is none. Warns of a damaged manifest and takes it as empty."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return {}
        try:
            entries = json.loads(path.read_text())
            return {str(name): str(digest) for name, digest in entries.items()}
        except (ValueError, AttributeError):
            message = f"{path} is damaged: all {self.what} below {self.folder} are made again"
            warnings.warn(message, stacklevel=stacklevel + 1)
            return {}

    def verified(self, name: str, digest: str | None, stacklevel: int = 2) -> bytes | None:
        """The contents of a file; None when it is absent, unfinished or (with a warning) damaged."""
        path = self.folder / name
        if digest is None or not path.is_file():
            return None
        content = path.read_bytes()
        if sha256(content) == digest:
            return content
        message = f"{path} is damaged (its checksum is not {digest[:12]}...): its {self.what} are made again"
        warnings.warn(message, stacklevel=stacklevel + 1)
        return None

    def check_makes(self, missing: Collection[str]) -> None:
        """Raise `DataError` where files are missing and nothing is to be made (`nothing_made`)."""
        if missing and not _MAKING.get():
            raise DataError(f"{self.folder} has no {self.what} yet, {len(missing)} of its files are missing")

    def enter(self, digests: Mapping[str, str]) -> None:
        """Add to the manifest. Give all of this process's entries each time: another that writes at once may drop the
        last."""
        entries = {**self.read(), **digests}
        write_atomic(self.folder / MANIFEST, json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
