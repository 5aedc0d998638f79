"""EASE: prototypes in the feature space of every task's own weights, those that are missing filled in by likeness.

Zhou, Sun, Ye and Zhan, "Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning", CVPR 2024
(arXiv 2403.12030), sections 4.2 and 4.3. A class of task i has prototypes in the spaces 0 ... i, from its images. In a later
space j it gets a mean of the prototypes of task j's classes there, weighed by a softmax of its cosines to them in space i.
The score of a class adds its cosine in the space of its own task and `alpha` / t times those in all others, after task t.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mtpeft.heads.classifiers import EACH, Classifier, Learned, class_means, register_classifier
from mtpeft.options import NotNegative


@register_classifier("ease")
class Ease(Classifier):
    """Weights of each task's own, all of which look at every image. `alpha`: what the spaces of other tasks count."""

    views = (EACH,)

    def __init__(self, dim: int, alpha: NotNegative = 0.1) -> None:
        super().__init__(dim)
        self.alpha = alpha

    def room(self, num_classes: int) -> Learned:
        """Prototypes (classes, tasks so far, dim)."""
        return Learned(prototypes=torch.zeros(num_classes, len(self.learned) + 1, self.dim))

    def learn(self, task: str, features: torch.Tensor, labels: torch.Tensor) -> None:
        """The classes' means in every space there is."""
        own = self.of(task)
        own.keep(prototypes=class_means(features, labels, len(own.prototypes)))

    def complete(self) -> torch.Tensor:
        """The prototypes of all classes in all spaces: (classes, tasks, dim)."""
        kept = [task.prototypes for task in self.tasks]
        rows = []
        for i, own in enumerate(kept):
            filled = []
            for new in kept[i + 1 :]:
                likeness = F.normalize(own[:, i], dim=1) @ F.normalize(new[:, i], dim=1).T
                filled.append(likeness.softmax(1) @ new[:, -1])
            rows.append(torch.cat([own, torch.stack(filled, dim=1)], dim=1) if filled else own)
        return torch.cat(rows)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, tasks, dim) -> scores (B, classes)."""
        prototypes = F.normalize(self.complete().to(features), dim=-1)
        cosines = torch.einsum("btd,ctd->bct", F.normalize(features, dim=-1), prototypes)
        number = len(self.learned)
        sizes = torch.tensor([len(task.prototypes) for task in self.tasks], device=features.device)
        home = torch.arange(number, device=features.device).repeat_interleave(sizes)
        counted = cosines.new_full((len(home), number), self.alpha / max(1, number - 1))
        counted[torch.arange(len(home)), home] = 1.0
        return (cosines * counted).sum(-1)
