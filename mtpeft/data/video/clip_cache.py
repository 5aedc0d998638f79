"""Decoded videos kept in memory, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

Array = np.ndarray


class ClipCache:
    """Arrays by key; the least recently used go when `capacity` bytes are exceeded. One per process."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._entries: OrderedDict[str, Array] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Array | None:
        """The array, which becomes the most recently used; None when it is not kept."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: str, frames: Array) -> None:
        """Keep an array, unless it alone is larger than the capacity."""
        if frames.nbytes > self.capacity or key in self._entries:
            return
        self._entries[key] = frames
        self.used += frames.nbytes
        while self.used > self.capacity:
            _, oldest = self._entries.popitem(last=False)
            self.used -= oldest.nbytes
