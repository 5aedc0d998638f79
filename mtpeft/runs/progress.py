"""What an engine calls as a run goes on; the terminal shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Progress:
    """Callbacks that show a run's progress; the defaults show nothing."""

    stage: Callable[[str, int], None] = lambda text, steps: None
    step: Callable[[], None] = lambda: None
    message: Callable[[str], None] = lambda text: None
