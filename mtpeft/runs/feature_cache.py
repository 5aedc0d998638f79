"""The recipe's key `cache`: what the frozen part of the backbone makes of every image is computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch

from mtpeft.data.feature_cache import FeatureCache
from mtpeft.data.row_images import CHUNK, Precision
from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.options import Name, OneOf, Positive, Section
from mtpeft.runs.progress import Progress
from mtpeft.runs.training import Training


@dataclass(kw_only=True)
class CacheSection:
    """`cache=dict(features=True)`. With "auto" a run that can have no cache goes on without, and says so.

    `folder`: where rows are kept, by default `mtpeft.data.feature_cache.default_folder`; `limit`: its GiB at most, of all
    runs together: what was not used for longest goes first.
    """

    features: bool | Annotated[str, OneOf(("auto",))] = True
    folder: Name | None = None
    limit: Positive = 20.0
    recipe: str = field(init=False, default="")

    @classmethod
    def read(cls, top: Section) -> CacheSection | None:
        """The key; None where the recipe asks for no cache."""
        if top.take("cache", None) is None:
            return None
        section = top.section("cache")
        section.take("features")
        found = cls(**section.fields(cls))
        found.recipe = top.recipe
        return found if found.features else None

    def open(
        self,
        manager: TaskManager,
        training: Training,
        check: Callable[[], tuple[int, int] | None],
        rows: int,
        tell: Callable[[str], None],
    ) -> FeatureCache | None:
        """The cache for `rows` images, which `check` looks at first; it gives their size where that is not the backbone's.

        Where there can be none (the `ConfigError` of `check`, of `FeatureCache`, no room): None for "auto", told to `tell`;
        else `ConfigError` that names the recipe.
        """
        try:
            for key in ("compile", "matmul_precision"):
                if getattr(training, key):
                    raise ConfigError(f"training.{key} is for the whole backbone, of which a part is kept")
            cache = FeatureCache(manager, self.folder, self.limit, image_size=check(), tell=tell)
            cache.files.check_room(rows)
            return cache
        except ConfigError as error:
            manager.frozen_part = None
            if self.features == "auto":
                tell(f"no feature cache: {error}")
                return None
            raise ConfigError(
                f"recipe {self.recipe}: cache: {error}; leave the key out, or cache.features='auto'"
            ) from error


def cache_facts(cache: FeatureCache | None, images: int) -> dict[str, Any]:
    """What results.json says of it: nothing without one."""
    return {} if cache is None else {"feature_cache": {**cache.facts(), "images": images}}


def fill(cache: FeatureCache, parts: Sequence[Any], progress: Progress, workers: int) -> dict[str, Any]:
    """Compute the rows of the data sets `parts` that are missing; what was done, for the log."""
    progress.stage("frozen features", sum(-(-len(part) // CHUNK) for part in parts))
    for part in parts:
        part.fill(workers, progress.step)
    images = cache.found + cache.computed
    size = images * cache.row_bytes
    progress.message(
        f"frozen features ({cache.part.words}): {cache.found} of {images} rows were known, {size / 2**20:.1f} MiB in "
        f"{cache.folder}"
    )
    return {"found": cache.found, "computed": cache.computed, "bytes": size}


def precision_of(training: Training, device: torch.device) -> Precision:
    """The context that forwards of training run in."""
    dtype = training.dtype
    return nullcontext if dtype is None else partial(torch.autocast, device.type, dtype=dtype)
