"""Rendered objects on disk: a file of views for each object, with a manifest of checksums."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from mtpeft.bars import bar
from mtpeft.data.manifest import Manifest
from mtpeft.data.objects.render import views_of
from mtpeft.files import sha256, write_atomic

Array = np.ndarray

VERSION = 1
"""Part of the cache's name: raise it when an object changes its looks."""


def load_views(cache: str, names: list[str], part: str, light: str, views: int, size: int, seed: int) -> Array:
    """The views of several objects, one object after the other: uint8 (objects * views, size, size, 4), see `views_of`.

    Rendered where the cache lacks them, or where (with a warning) the checksum of a file differs from the manifest.
    Every finished file counts: after an interruption only the missing ones are rendered.
    """
    manifest = Manifest(Path(cache).expanduser() / f"objects-v{VERSION}-seed{seed}-{size}px", "objects")
    known = manifest.read(stacklevel=3)
    files = {name: f"{name.replace(' ', '-')}-{part}-{light}-{views}.npz" for name in names}
    found: dict[str, Array] = {}
    for name, file in files.items():
        content = _verified(manifest, file, known.get(file))
        if content is not None:
            found[name] = content
    missing = [name for name in names if name not in found]
    manifest.check_makes(missing)
    digests: dict[str, str] = {}
    for name in bar(missing, f"rendering objects ({part}, light: {light})", "object"):
        found[name] = made = views_of(name, part, light, views, size, seed)
        digests[files[name]] = _write(manifest.folder / files[name], made)
        manifest.enter(digests)
    return np.concatenate([found[name] for name in names])


def _verified(manifest: Manifest, file: str, digest: str | None) -> Array | None:
    """The views in a file; None when it is absent, unfinished or damaged."""
    content = manifest.verified(file, digest, stacklevel=4)
    if content is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return np.asarray(stored["views"])


def _write(path: Path, views: Array) -> str:
    """The checksum of the file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, views=views)
    write_atomic(path, buffer.getvalue())
    return sha256(buffer.getvalue())
