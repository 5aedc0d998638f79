"""How an experience is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mtpeft.options import Count, NotNegative, OneOf
from mtpeft.runs import training

LOSSES = ("cross_entropy", "local_cross_entropy")


@dataclass(frozen=True, kw_only=True)
class Training(training.Training):
    """Settings of one experience of `epochs`: optimiser and schedule begin anew with each.

    Plugins that go over the data by themselves, as EWC does for its importances, take batches of `batch_size`.
    `loss` "local_cross_entropy" sees only the experience's own classes (LAE). `margin` is taken off the cosine of the true
    class, where the growing head is one of cosines.
    """

    epochs: Count = 1
    loss: Annotated[str, OneOf(LOSSES)] = "cross_entropy"
    margin: NotNegative = 0.0
