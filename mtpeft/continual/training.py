"""How an experience is trained."""

from __future__ import annotations

from dataclasses import dataclass

from mtpeft.errors import UnknownNameError
from mtpeft.runs import training
from mtpeft.runs.training import check_whole

LOSSES = ("cross_entropy", "local_cross_entropy")


@dataclass(frozen=True, kw_only=True)
class Training(training.Training):
    """Settings of one experience of `epochs`: optimiser and schedule begin anew with each.

    Plugins that go over the data by themselves, as EWC does for its importances, take batches of `batch_size`.
    `loss` "local_cross_entropy" sees only the experience's own classes (LAE).
    """

    epochs: int = 1
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("epochs", self.epochs, 1)
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES, "key training.loss")
