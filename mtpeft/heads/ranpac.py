"""RanPAC: ridge regression on randomly projected features, by sums that no later task takes back.

McDonnell et al., NeurIPS 2023 (arXiv 2307.02251), section 4: h = relu(f W) with W standard normal and fixed, G = sum of
h h^T, Q = sum of h y^T over all images so far, and class scores h^T (G + l I)^-1 Q. What a task adds depends on no other
task, so that the order of tasks does not matter but for the choice of l: the one with the smallest squared error on the
last fifth of the newest task's images, when the others fit it (appendix F.1). Those below the rounding of G are left out: with
fewer images than random features they would leave the solution to it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch.nn import functional as F

from mtpeft.errors import DataError
from mtpeft.heads.classifiers import Classifier, Learned, register_classifier
from mtpeft.options import Count, WholeNumber

#: the regularisers that are tried
PENALTIES = tuple(10.0**power for power in range(-8, 9))
#: images that are projected at a time
CHUNK = 1024


@register_classifier("ranpac")
class RanPAC(Classifier):
    """`projection` M: random features, drawn by `seed`. `features`: the "trained" view of an image, or the "frozen" one.

    Memory: G is M^2 numbers (M = 10,000: 400 MB), of the run and of its saved state, and Q M numbers a class; images need
    none beyond their features.
    """

    relearns: ClassVar[bool] = False
    gram: torch.Tensor
    directions: torch.Tensor
    penalty: torch.Tensor

    def __init__(
        self,
        dim: int,
        projection: Count = 10_000,
        features: Literal["trained", "frozen"] = "trained",
        seed: WholeNumber = 0,
    ) -> None:
        super().__init__(dim)
        self.views = (features,)
        drawn = torch.randn(dim, projection, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("directions", drawn, persistent=False)
        self.register_buffer("gram", torch.zeros(projection, projection))
        self.register_buffer("penalty", torch.tensor(0.0, dtype=torch.float64))
        self.solved: tuple[tuple[int, ...], torch.Tensor] | None = None

    def room(self, num_classes: int) -> Learned:
        """Q (M, classes)."""
        return Learned(products=torch.zeros(len(self.gram), num_classes))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """(N, dim) -> (N, M)."""
        return F.relu(features.to(self.directions) @ self.directions)

    def learn(self, task: str, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add the task's sums, and choose the regulariser by its images."""
        own, rows = self.of(task), features[:, 0]
        classes = own.products.shape[1]
        held = len(rows) // 5
        if held == 0:
            raise DataError(
                f"task {task!r} has {len(rows)} training images; a ridge needs 5, one of which chooses its regulariser"
            )
        products = torch.zeros_like(own.products)
        for part, which in zip(rows.split(CHUNK), labels.split(CHUNK), strict=True):
            hidden = self.project(part)
            self.gram.addmm_(hidden.T, hidden)
            products.addmm_(hidden.T, F.one_hot(which, classes).to(hidden))
        own.keep(products=products)
        self.penalty.fill_(self.choose(rows, F.one_hot(labels, classes), len(rows) - held))
        self.solved = None

    def choose(self, rows: torch.Tensor, targets: torch.Tensor, fitted: int) -> float:
        """The regulariser of least squared error on the rows from `fitted` on, with those before fitted: of equals, the larger.

        All are tried by one decomposition, of the smaller one of h h^T over images and over random features.
        """
        hidden, y = self.project(rows).double(), targets.to(rows.device).double()
        train, test = hidden[:fitted], hidden[fitted:]
        if len(train) <= train.shape[1]:  # (H^T H + l)^-1 H^T = H^T (H H^T + l)^-1
            values, vectors = torch.linalg.eigh(train @ train.T)
            left, right = test @ train.T @ vectors, vectors.T @ y[:fitted]
        else:
            values, vectors = torch.linalg.eigh(train.T @ train)
            left, right = test @ vectors, vectors.T @ (train.T @ y[:fitted])
        values = values.clamp_min(0)[:, None]
        rounding = torch.finfo(self.gram.dtype).eps * float(self.gram.trace())
        tried = [p for p in PENALTIES if p >= rounding] or [PENALTIES[-1]]
        errors = [float((left @ (right / (values + p)) - y[fitted:]).square().mean()) for p in tried]
        best = min(errors)
        return max(p for p, error in zip(tried, errors, strict=True) if error == best)

    def weights(self) -> torch.Tensor:
        """(G + l I)^-1 Q: (M, classes), solved once for what is learnt."""
        state = (self.gram._version, len(self.learned), self.penalty._version)
        if self.solved is None or self.solved[0] != state:
            products = torch.cat([task.products for task in self.tasks], dim=1).double()
            system = self.gram.double()
            system.diagonal().add_(self.penalty)
            self.solved = state, torch.linalg.solve(system, products).to(self.gram)
        return self.solved[1]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 1, dim) -> scores (B, classes)."""
        return self.project(features[:, 0]) @ self.weights()
