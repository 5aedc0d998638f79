"""How a joint run is trained."""

from __future__ import annotations

from dataclasses import dataclass

from mtpeft.options import Count
from mtpeft.runs import training


@dataclass(frozen=True, kw_only=True)
class Training(training.Training):
    """Settings of a run of `steps`. Each part of a batch is shared out over the processes."""

    steps: Count
