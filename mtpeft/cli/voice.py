"""Which of several processes speaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def first_speaks() -> Iterator[None]:
    """Of the processes that torchrun started only the first has a voice: the others' stdout and stderr lead nowhere.

    That holds for libraries and their worker processes too, and where something else stands for Python's own streams. An
    exception that leaves the context is seen again.
    """
    if int(os.environ.get("RANK", "0")) == 0:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            yield
    finally:
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
