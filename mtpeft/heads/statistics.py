"""What is kept of a class's features in place of its images: their mean and covariance, and features drawn from them.

The Gaussians of SLCA (Zhang et al., ICCV 2023, section 3.3), whose means may follow a backbone that has been trained on
(SSIAT, Tan et al., CVPR 2024, section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from mtpeft.errors import ConfigError, DataError
from mtpeft.options import Count, Positive

COVARIANCES = ("full", "diagonal", "low_rank")
#: added to every weight of a drift, so that a mean without neighbours moves with all features alike
FLOOR = 1e-5


class ClassStatistics:
    """A Gaussian N(m, S + ridge I) of the features of every class, on the CPU, in float32.

    `covariance` says what is kept of S, the unbiased covariance (zero for a class of one image): all of it ("full": d^2
    numbers a class, 2.4 MB for d = 768), its "diagonal" (d), or its `rank` largest principal directions ("low_rank":
    rank * d). Kept is not S but a factor of it that draws: of the full one Cholesky's, ridge included.
    """

    def __init__(
        self,
        covariance: Literal["full", "diagonal", "low_rank"] = "full",
        rank: Count | None = None,
        ridge: Positive = 1e-4,
    ) -> None:
        if covariance not in COVARIANCES:
            raise ConfigError(f"covariance is {covariance!r}, expected one of {', '.join(COVARIANCES)}")
        if (rank is None) == (covariance == "low_rank"):
            raise ConfigError(
                f"rank is {rank} with covariance={covariance!r}: give it for 'low_rank', and for that alone"
            )
        self.covariance, self.rank, self.ridge = covariance, rank, ridge
        #: by class: (d,)
        self.means: dict[int, torch.Tensor] = {}
        #: by class: (d, d), lower triangular; (d,); or (d, up to rank)
        self.factors: dict[int, torch.Tensor] = {}

    def add(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Take the classes in `labels` (N,) of `features` (N, d), all images of each; those known are made anew.

        Raises `DataError` for features that are not finite.
        """
        if not bool(features.isfinite().all()):
            raise DataError(
                "features are not finite, so that classes have no mean and covariance: lower the learning rate"
            )
        for label in labels.unique().tolist():
            own = features[labels == label].detach().cpu().double()
            mean = own.mean(0)
            self.means[label] = mean.float()
            self.factors[label] = self._factor((own - mean) / max(1, len(own) - 1) ** 0.5).float().contiguous()

    def _factor(self, centred: torch.Tensor) -> torch.Tensor:
        """Of rows (n, d) whose sum of products is S."""
        if self.covariance == "diagonal":
            return (centred.square().sum(0) + self.ridge).sqrt()
        if self.covariance == "low_rank":
            _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
            return (directions * singular[:, None])[: self.rank].T
        ridge = self.ridge * torch.eye(centred.shape[1], dtype=centred.dtype)
        return torch.linalg.cholesky(centred.T @ centred + ridge)

    def covariance_of(self, label: int) -> torch.Tensor:
        """(d, d), ridge included: that of what `draw` gives."""
        factor = self.factors[label]
        if self.covariance == "diagonal":
            return factor.square().diag()
        ridge = 0.0 if self.covariance == "full" else self.ridge
        return factor @ factor.T + ridge * torch.eye(len(factor))

    def draw(self, label: int, count: int, generator: torch.Generator, shrink: float = 1.0) -> torch.Tensor:
        """`count` features (count, d) of a class, from N(shrink * m, S + ridge I)."""
        mean, factor = self.means[label], self.factors[label]
        if self.covariance == "diagonal":
            noise = torch.randn(count, len(mean), generator=generator) * factor
        else:
            noise = torch.randn(count, factor.shape[1], generator=generator) @ factor.T
        if self.covariance == "low_rank":
            noise += self.ridge**0.5 * torch.randn(count, len(mean), generator=generator)
        return shrink * mean + noise

    def move(self, before: torch.Tensor, after: torch.Tensor, width: float) -> None:
        """Move every mean as the features of images nearby moved: those of the same images (N, d) `before` and `after`.

        m += sum_i w_i (after_i - before_i) with w_i = exp(-|before_i - m|^2 / (2 width^2)) + 1e-5, their sum made 1.
        Covariances stay.
        """
        start, step = before.double(), after.double() - before.double()
        for label, kept in self.means.items():
            mean = kept.double()
            weights = torch.exp(-(start - mean).square().sum(1) / (2 * width**2)) + FLOOR
            self.means[label] = (mean + weights @ step / weights.sum()).float()

    @property
    def bytes(self) -> int:
        """Of all that is kept."""
        kept = (*self.means.values(), *self.factors.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def state(self) -> dict[str, Any]:
        """What `restore` takes: two mappings of classes to tensors."""
        return {"means": dict(self.means), "factors": dict(self.factors)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.means = {label: tensor.clone() for label, tensor in state["means"].items()}
        self.factors = {label: tensor.clone() for label, tensor in state["factors"].items()}
