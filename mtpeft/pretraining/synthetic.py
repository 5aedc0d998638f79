"""The labelled synthetic images of a recipe: generated once, by several processes, then read from a cache file."""

from __future__ import annotations

import hashlib
import io
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mtpeft.bars import bar
from mtpeft.data.fractals import ifs_category
from mtpeft.data.patterns import contour_category, parts_category, strokes_category, texture_category
from mtpeft.data.rendered import object_category, random_object_category
from mtpeft.errors import DataError, UnknownNameError
from mtpeft.files import write_atomic
from mtpeft.pretraining.config import DataSection

FORMULAS = {
    "ifs": ifs_category,
    "contours": contour_category,
    "parts": parts_category,
    "textures": texture_category,
    "strokes": strokes_category,
}
RENDERED = {"objects": object_category, "random_objects": random_object_category}
FAMILIES = (*FORMULAS, *RENDERED)
VERSION = 1
"""Part of the cache's name: raise it when a generator changes its images."""


def load_synthetic(data: DataSection, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, size, size, C) and labels int64 (N,), from the cache or generated into it.

    C is 3; with random objects 4, the last being their relief (0 in the images of all other families).
    The images depend on `seed` and the section, not on the number of workers. Raises `DataError`.
    """
    path = cache_path(data, seed)
    if not path.exists():
        _generate(data, seed, path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["images"], stored["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the image cache {path} is damaged ({error}); delete it and run again") from error


def cache_path(data: DataSection, seed: int) -> Path:
    """The cache file of these images, named after everything they depend on."""
    content = [VERSION, seed, sorted(data.categories.items()), data.instances, data.size]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    return Path(data.cache).expanduser() / f"synthetic-{digest}.npz"


def draw_category(job: tuple[str, int], seed: int, instances: int, size: int) -> np.ndarray:
    """One category of a family as uint8 (instances, size, size, 3 or 4); every category has a generator of its own."""
    family, index = job
    rng = np.random.default_rng([seed, FAMILIES.index(family), index])
    if family in RENDERED:
        return RENDERED[family](index, rng, instances, size)
    return FORMULAS[family](rng, instances, size)


def _generate(data: DataSection, seed: int, path: Path) -> None:
    for family in data.categories:
        if family not in FAMILIES:
            raise UnknownNameError("image family", family, FAMILIES, "recipe key data.categories")
    jobs = [(family, index) for family in FAMILIES for index in range(data.categories.get(family, 0))]
    if not jobs:
        raise DataError("the recipe asks for no image category: set data.categories")
    draw = partial(draw_category, seed=seed, instances=data.instances, size=data.size)
    # Fresh processes: forking a process that runs torch's threads can hang.
    with ProcessPoolExecutor(data.workers, mp_context=get_context("spawn")) as pool:
        results = pool.map(draw, jobs, chunksize=4)
        images = list(bar(results, "generating image categories", "category", total=len(jobs)))
    channels = max(part.shape[-1] for part in images)
    images = [np.pad(part, ((0, 0), (0, 0), (0, 0), (0, channels - part.shape[-1]))) for part in images]
    buffer = io.BytesIO()
    np.savez(buffer, images=np.concatenate(images), labels=np.repeat(np.arange(len(jobs)), data.instances))
    write_atomic(path, buffer.getvalue())
