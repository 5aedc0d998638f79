"""The clips of `motion` on disk, made where they are missing or damaged."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from mtpeft.bars import bar
from mtpeft.data.manifest import Manifest
from mtpeft.data.video.motion.classes import MOTION_CLASSES, draw
from mtpeft.data.video.motion.encode import clip_frames, clip_name, encode
from mtpeft.files import sha256, write_atomic

VERSION = 2
"""Part of the cache's name: raise it when a clip changes."""
BATCH = 50
"""Clips between two writings of the manifest."""


def load_clips(
    cache: str,
    seed: int,
    split: str,
    per_class: int,
    length: int,
    size: int,
    labels: Sequence[str] = tuple(MOTION_CLASSES),
) -> list[tuple[Path, str]]:
    """File and class of the first `per_class` clips of every class in `labels`, of a split.

    A file whose checksum differs from the manifest is named in a warning and made again; after an interruption only what
    is missing is made.
    """
    folder = Path(cache).expanduser() / f"motion-v{VERSION}-seed{seed}-{size}px-{length}f"
    manifest = Manifest(folder, "clips")
    known = manifest.read(stacklevel=3)
    clips: list[tuple[Path, str]] = []
    missing: list[tuple[str, str, int]] = []
    for label, index in itertools.product(labels, range(per_class)):
        name = clip_name(draw(seed, split, MOTION_CLASSES[label].group, index, length), split, label, index)
        clips.append((folder / name, label))
        if manifest.verified(name, known.get(name), stacklevel=3) is None:
            missing.append((name, label, index))
    manifest.check_makes([name for name, _, _ in missing])
    digests: dict[str, str] = {}
    try:
        for name, label, index in bar(missing, f"making {split} clips", "clip", least=BATCH):
            frames, drawn = clip_frames(seed, split, label, index, length, size)
            content = encode(frames, drawn.codec)
            write_atomic(folder / name, content)
            digests[name] = sha256(content)
            if len(digests) % BATCH == 0:
                manifest.enter(digests)
    finally:
        if digests:
            manifest.enter(digests)
    return clips
