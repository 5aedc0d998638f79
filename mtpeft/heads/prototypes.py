"""Prototypes: the mean feature of every class, and the cosine to it.

SimpleCIL and APER (Zhou et al., "Revisiting Class-Incremental Learning with Pre-Trained Models", IJCV 2024, arXiv 2303.07338,
sections 3 and 4): the features are those of the frozen backbone (SimpleCIL), of one that was adapted on the first task, or
both side by side (APER). Means are of features of any length, and are not rescaled.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

from mtpeft.heads.classifiers import FROZEN, TRAINED, Classifier, Learned, class_means, register_classifier


@register_classifier("prototypes")
class Prototypes(Classifier):
    """cos(phi(x), mean of phi over the class). `features`: phi is the "trained" view, the "frozen" one, or "both" in a row."""

    def __init__(self, dim: int, features: Literal["trained", "frozen", "both"] = "trained") -> None:
        super().__init__(dim)
        self.views = (FROZEN, TRAINED) if features == "both" else (features,)

    def room(self, num_classes: int) -> Learned:
        """Means (classes, V dim)."""
        return Learned(means=torch.zeros(num_classes, len(self.views) * self.dim))

    def learn(self, task: str, features: torch.Tensor, labels: torch.Tensor) -> None:
        """The classes' means."""
        own = self.of(task)
        own.keep(means=class_means(features.flatten(1), labels, len(own.means)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, V, dim) -> cosines (B, classes)."""
        means = torch.cat([task.means for task in self.tasks])
        return F.linear(F.normalize(features.flatten(1), dim=1), F.normalize(means, dim=1).to(features))
