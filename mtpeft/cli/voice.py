"""Which of several processes speaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def first_speaks() -> Iterator[None]:
    """Of the processes that torchrun started only the first has a voice: the others' stdout and stderr lead nowhere.

    That holds for libraries and their worker processes too. An exception that leaves the context is seen again.
    """
    if int(os.environ.get("RANK", "0")) == 0:
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        streams = (sys.stdout, sys.stderr)
        kept = [os.dup(number) for number in (1, 2)]
        try:
            _point(streams, [nowhere.fileno()] * 2)
            yield
        finally:
            _point(streams, kept)
            for copy in kept:
                os.close(copy)


def _point(streams: Sequence[TextIO], targets: Sequence[int]) -> None:
    """Let stdout and stderr lead to `targets`."""
    for number, (stream, target) in enumerate(zip(streams, targets, strict=True), start=1):
        stream.flush()
        os.dup2(target, number)
