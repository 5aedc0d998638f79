"""Features of the frozen part of a backbone, computed once per image and kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mtpeft.data.row_files import GIB, RowFiles
from mtpeft.manager.rows import take_rows

if TYPE_CHECKING:
    from mtpeft.manager.manager import TaskManager


def default_folder() -> Path:
    """Where rows are kept: MTPEFT_CACHE, by default ~/.cache/mtpeft, and there `features`."""
    return Path(os.environ.get("MTPEFT_CACHE", "~/.cache/mtpeft")).expanduser() / "features"


class FeatureCache:
    """Rows for a manager: `manager(cache.rows(images), task)` is `manager(images, task)`, and computes only what is trained.

    A row is what the rest of the model reads of one image (`mtpeft.hooks.frozen`): pooled features for a linear probe, the
    tokens that leave the last frozen block for a method in later ones, the tapped outputs for a side network. Images are
    known by their pixels, the backbone by what it makes of noise: a changed image or backbone never gets an old row. On a
    CPU a row has the bits the forward would give in a batch of two or more; elsewhere kernels round by the batch.
    """

    def __init__(
        self,
        manager: TaskManager,
        folder: str | Path | None = None,
        limit: float = 20.0,
        reads: Iterable[str] | None = None,
        image_size: tuple[int, int] | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`folder`: `default_folder` for None; `limit`: its GiB, all keys together. The others are `take_rows`'s.

        Attach methods and add tasks first: what is trained, and what heads read, decides what a row is. Raises
        `ConfigError` where there is nothing to keep.
        """
        self.manager, self.limit, self.tell = manager, int(limit * GIB), tell
        self.folder = default_folder() if folder is None else Path(folder).expanduser()
        self.part = take_rows(manager, reads, image_size)
        self.found = self.computed = 0
        self._files: dict[str, RowFiles] = {}

    @property
    def files(self) -> RowFiles:
        """The rows on disk, for the precision forwards run in at the moment."""
        precision = self.part.precision
        if precision not in self._files:
            layout = self.part.layout
            shape = (2, self.manager.anatomy.input_size[0], *self.part.image_size)
            noise = self.part.rows(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
            key = {
                "format": 1,
                "backbone": self.manager.fingerprint,
                "noise": hashlib.sha256(noise.cpu().numpy().tobytes()).hexdigest(),
                "parts": [[*part, list(like.shape), str(like.dtype)] for part, like in layout.parts.items()],
                "image_size": list(self.part.image_size),
                "precision": precision,
            }
            dtype = noise[:0].cpu().numpy().dtype
            self._files[precision] = RowFiles(self.folder, key, layout.width, dtype, self.limit, self.tell)
        return self._files[precision]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.files.kind["row"].itemsize

    def rows(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), as the backbone takes them -> rows (B, width) on a CPU.

        Those not known yet are computed; `flush` when done. Raises `ConfigError` where there is no room for them.
        """
        digests = self.add(images)
        return torch.from_numpy(self.files.read(digests))

    def add(self, images: Tensor) -> list[bytes]:
        """The digests of the images, whose rows are there from now on."""
        files, digests = self.files, digests_of(images)
        missing = [place for place, image in enumerate(digests) if image not in files]
        self.found += len(digests) - len(missing)
        self.computed += len(missing)
        if missing:
            made = self.part.rows(images[missing]).cpu().numpy()
            for place, row in zip(missing, made, strict=True):
                files.add(digests[place], row)
        return digests

    def flush(self) -> None:
        """Put on disk what is not there yet."""
        for files in self._files.values():
            files.flush()

    def facts(self) -> dict[str, Any]:
        """What a row is, in plain types."""
        return {"features": self.part.words, "row_bytes": self.row_bytes}


def digests_of(images: Tensor) -> list[bytes]:
    """SHA-256 of type, shape and values of every image (B, ...)."""
    values: np.ndarray = images.detach().cpu().contiguous().numpy()
    head = f"{values.dtype} {values.shape[1:]}".encode()
    digests = []
    for value in values:
        digest = hashlib.sha256(head)
        digest.update(value.data)
        digests.append(digest.digest())
    return digests
