"""Bytes of the tensors that a training step makes, after each of its operations, and what larger batches would need."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StepMemory(TorchDispatchMode):
    """Counts the storages that are made while it is entered, on any device, until they are freed.

    `after` has the bytes alive after each operation, forward, backward and update alike; `saved` the most that autograd
    kept for backward at any time. What was there before (weights, a batch) counts in neither, nor do the passing
    buffers of single kernels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.after: list[int] = []
        self.live = self.kept = self.saved = 0
        self._sizes: dict[int, int] = {}  # 0 for what was there before
        self._kept: set[int] = set()
        self._watches: list[weakref.finalize] = []
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> StepMemory:
        super().__enter__()
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        super().__exit__(*error)
        for watch in self._watches:
            watch.detach()
        self._watches.clear()

    @property
    def peak(self) -> int:
        """The most bytes after any operation."""
        return max(self.after, default=0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._see((args, kwargs), made=False)
        result = func(*args, **(kwargs or {}))
        self._see(result, made=True)
        self.after.append(self.live)
        return result

    def _see(self, values: Any, made: bool) -> None:
        for tensor in tree_leaves(values):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes() if made else 0
                self.live += self._sizes[key]
                self._watches.append(weakref.finalize(storage, self._freed, key))

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.untyped_storage()._cdata
        if self._sizes.get(key) and key not in self._kept:
            self._kept.add(key)
            self.kept += self._sizes[key]
            self.saved = max(self.saved, self.kept)
        return tensor.detach()  # an operation that saves its own output would keep itself alive by it for ever

    def _freed(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.live -= size
        if key in self._kept:
            self._kept.discard(key)
            self.kept -= size


def at_batch(batch: int, sizes: Sequence[int], steps: Sequence[StepMemory]) -> tuple[int, int]:
    """(peak, saved) bytes of a step of `batch` samples, from the steps of one or two other numbers of samples, `sizes`.

    What is alive after an operation grows by the same with every sample, so the peak of the larger batch is found operation
    by operation: another may need the most there. Steps whose operations differ are compared by their peaks (one sample's do
    differ: sums over a batch of one are left out).
    """
    if len(steps) == 1:
        return steps[0].peak * batch // sizes[0], steps[0].saved * batch // sizes[0]
    (low, high), (first, second) = sizes, steps
    factor = (batch - low) / (high - low)
    pairs = [(first.peak, second.peak)]
    if len(first.after) == len(second.after):
        pairs = list(zip(first.after, second.after, strict=True))
    peak = max(a + factor * (b - a) for a, b in pairs)
    saved = first.saved + factor * (second.saved - first.saved)
    return round(max(peak, saved)), round(saved)
