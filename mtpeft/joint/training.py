"""How a joint run is trained."""

from __future__ import annotations

from dataclasses import dataclass

from mtpeft.runs import training
from mtpeft.runs.training import check_whole


@dataclass(frozen=True, kw_only=True)
class Training(training.Training):
    """Settings of a run of `steps`. Each part of a batch is shared out over the processes."""

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps, 1)
