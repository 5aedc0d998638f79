"""Progress over many items: a bar on a terminal, one line in a pipe or a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from typing import Any

from tqdm import tqdm


def bar(items: Iterable[Any] | None, text: str, unit: str, total: int | None = None, least: int = 1) -> Any:
    """A tqdm over `items`, or one to be updated by hand where there are none.

    Shown on stderr, where the line in a log is `text` and the number of items. `total` is that number where `items` have
    no length; fewer than `least` are not worth a word.
    """
    count = len(items) if total is None and isinstance(items, Sized) else total
    worth = count is None or count >= least
    terminal = sys.stderr.isatty()
    if worth and not terminal:
        print(text if count is None else f"{text}: {count}", file=sys.stderr, flush=True)
    return tqdm(items, desc=text, unit=unit, total=count, disable=not (worth and terminal), leave=False)
