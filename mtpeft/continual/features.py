"""The feature cache of a continual run: the stream it trains on has rows in place of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtpeft.data.dense.row_view import check_fixed_views, common_size, row_labels
from mtpeft.data.dense.stream import DenseStream
from mtpeft.data.feature_cache import FeatureCache
from mtpeft.data.row_images import check_fixed, row_stream
from mtpeft.data.streams import Stream
from mtpeft.runs.feature_cache import CacheSection, cache_facts, fill, precision_of
from mtpeft.runs.progress import Progress


class Features:
    """`stream` is what the run trains and evaluates on; without a cache, the stream itself."""

    def __init__(
        self, stream: Stream | DenseStream, cache: FeatureCache | None = None, parts: Sequence[Any] = ()
    ) -> None:
        """`parts`: the data sets of the stream that are rows."""
        self.stream, self.cache, self.parts = stream, cache, list(parts)

    @classmethod
    def of(cls, section: CacheSection | None, built: Any) -> Features:
        """What the recipe asks for; raises `ConfigError` where it cannot be."""
        stream = built.stream
        if section is None:
            return cls(stream)

        dense = isinstance(stream, DenseStream)
        views = [part.view for task in stream for part in (task.train, task.test)] if dense else []

        def check() -> tuple[int, int] | None:
            if isinstance(stream, Stream):
                check_fixed(stream)
                return None
            check_fixed_views(task.train.view for task in stream)
            return common_size(views)

        number = sum(len(part) for task in stream for part in (task.train, task.test))
        cache = section.open(built.manager, built.training, check, number, built.progress.message)
        if cache is None:
            return cls(stream)
        precision = precision_of(built.training, built.device)
        if isinstance(stream, DenseStream):
            labels, made = row_labels(stream, cache, precision)
            return cls(labels, cache, made)
        images, parts = row_stream(stream, cache, precision)
        return cls(images, cache, parts)

    def fill(self, progress: Progress, workers: int) -> dict[str, Any] | None:
        """Compute what is missing; what was done, for the log."""
        return None if self.cache is None else fill(self.cache, self.parts, progress, workers)

    def facts(self) -> dict[str, Any]:
        """What results.json says of it."""
        return cache_facts(self.cache, sum(len(part) for part in self.parts))
