"""Rendered scenes on disk: files of 50 scenes with a manifest of checksums, written by several processes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mtpeft.bars import bar
from mtpeft.data.dense.scenes.render import render_shard
from mtpeft.data.manifest import Manifest
from mtpeft.errors import DataError

Array = np.ndarray
Job = tuple[int, str, range, int, str]

VERSION = 2
"""Part of the cache's name: raise it when a scene changes its image or labels."""
SHARD = 50


def load_scenes(
    cache: str, seed: int, split: str, count: int, size: int, workers: int | None = None
) -> dict[str, Array]:
    """The first `count` scenes of a split as stacked arrays, rendered where the cache lacks them.

    A scene is a function of (seed, split, index) alone, so a file whose checksum differs from the manifest is named in
    a warning and rendered again. Every finished file counts: after an interruption only the missing ones are rendered.
    """
    folder = Path(cache).expanduser() / f"scenes-v{VERSION}-seed{seed}-{size}px"
    shards = {
        f"{split}-{start:06d}-{min(start + SHARD, count) - 1:06d}.npz": range(start, min(start + SHARD, count))
        for start in range(0, count, SHARD)
    }
    loaded: dict[str, dict[str, Array]] = {}
    missing = {}
    manifest = Manifest(folder, "scenes")
    known = manifest.read(stacklevel=3)
    for name, indices in shards.items():
        content = _verified(manifest, name, known.get(name))
        if content is None:
            missing[name] = indices
        else:
            loaded[name] = content
    manifest.check_makes(missing)
    if missing:
        digests = _render(manifest, missing, seed, split, size, workers)
        for name, digest in digests.items():
            content = _verified(manifest, name, digest)
            if content is None:
                raise DataError(
                    f"{folder / name} is not what was written a moment ago; is another program changing it?"
                )
            loaded[name] = content
    return {key: np.concatenate([loaded[name][key] for name in shards]) for key in loaded[next(iter(shards))]}


def _verified(manifest: Manifest, name: str, digest: str | None) -> dict[str, Array] | None:
    """The arrays of a file; None when it is absent, unfinished or damaged."""
    content = manifest.verified(name, digest, stacklevel=4)
    if content is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return dict(stored)


def _render(
    manifest: Manifest, missing: dict[str, range], seed: int, split: str, size: int, workers: int | None
) -> dict[str, str]:
    """Render the missing files; returns their checksums, which are in the manifest as well."""
    total = sum(len(indices) for indices in missing.values())
    jobs = {name: (seed, split, indices, size, str(manifest.folder / name)) for name, indices in missing.items()}
    digests: dict[str, str] = {}
    with bar(None, f"rendering {split} scenes", "scene", total=total, least=SHARD) as progress:
        for name, digest in _finished(jobs, workers):
            digests[name] = digest
            manifest.enter(digests)
            progress.update(len(missing[name]))
    return digests


def _finished(jobs: dict[str, Job], workers: int | None) -> Iterator[tuple[str, str]]:
    """Name and checksum of each file, when it is done."""
    if len(jobs) == 1 or workers == 1:
        for name, job in jobs.items():
            yield name, render_shard(*job)
        return
    # Fresh processes: forking a process that runs torch's threads can hang.
    pool = ProcessPoolExecutor(min(workers or os.cpu_count() or 1, len(jobs)), mp_context=get_context("spawn"))
    try:
        futures = {pool.submit(render_shard, *job): name for name, job in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
