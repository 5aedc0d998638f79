"""The terminal of a run: its width, progress, and Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mtpeft.runs.progress import Progress as Callbacks


def open_console() -> Console:
    """The terminal; a pipe or a file is 80 columns wide, or as wide as the variable COLUMNS says."""
    return Console()


@contextmanager
def progress_bar(console: Console) -> Iterator[Callbacks]:
    """A progress bar, as the callbacks a run reports to; in a pipe or a file every stage and message is one line."""
    if not console.file.isatty():

        def line(text: str) -> None:
            console.print(text, soft_wrap=True, markup=False, highlight=False)

        yield Callbacks(stage=lambda text, steps: line(f"{text}: {steps} steps" if steps else text), message=line)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("building", total=None)

        def stage(text: str, steps: int) -> None:
            bar.reset(task, total=steps or None, description=text)

        yield Callbacks(stage=stage, step=lambda: bar.advance(task), message=lambda text: bar.console.print(text))


@contextmanager
def interrupts() -> Iterator[list[bool]]:
    """Ctrl-C or SIGTERM asks for a stop after the running step, which saves the state; a second one stops at once.

    Processes that this one forks meanwhile end by SIGTERM, as any does.
    """
    asked: list[bool] = []
    own = os.getpid()

    def handler(number: int, frame: Any) -> None:
        if os.getpid() != own and number == signal.SIGTERM:
            os._exit(128 + number)
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    try:
        previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nothing can be caught here
        yield asked
        return
    try:
        yield asked
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
