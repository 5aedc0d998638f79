"""Means, covariances and drawn features of classes, against plain algebra in float64."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch

from mtpeft.errors import ConfigError, DataError
from mtpeft.heads.statistics import ClassStatistics

Kind = Literal["full", "diagonal", "low_rank"]


def features(number: int = 40, dim: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated features around means of their own, and labels in no order."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(classes, (number,), generator=generator)
    mix = torch.randn(classes, dim, dim, generator=generator)
    noise = torch.randn(number, dim, generator=generator)
    return 2.0 * labels[:, None] + torch.einsum("ni,nij->nj", noise, mix[labels]), labels


def by_hand(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased covariance, entry by entry."""
    number, dim = rows.shape
    rows = rows.double()
    mean = torch.stack([sum(rows[:, j]) / number for j in range(dim)])  # type: ignore[arg-type]
    covariance = torch.zeros(dim, dim, dtype=torch.float64)
    for j in range(dim):
        for k in range(dim):
            covariance[j, k] = ((rows[:, j] - mean[j]) * (rows[:, k] - mean[k])).sum() / (number - 1)
    return mean, covariance


@pytest.mark.parametrize("covariance", ["full", "diagonal", "low_rank"])
def test_mean_and_covariance(covariance: Kind) -> None:
    x, y = features()
    kept = ClassStatistics(covariance, rank=2 if covariance == "low_rank" else None, ridge=0.01)
    kept.add(x, y)
    for label in range(3):
        mean, expected = by_hand(x[y == label])
        if covariance == "diagonal":
            expected = expected.diag().diag()
        if covariance == "low_rank":
            values, vectors = torch.linalg.eigh(expected)
            expected = sum(values[i] * torch.outer(vectors[:, i], vectors[:, i]) for i in (-1, -2))  # type: ignore[assignment]
        expected = expected + 0.01 * torch.eye(5)
        torch.testing.assert_close(kept.means[label].double(), mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(kept.covariance_of(label).double(), expected, atol=1e-5, rtol=1e-5)
    numbers = {"full": 5 + 25, "diagonal": 5 + 5, "low_rank": 5 + 10}[covariance]
    assert kept.bytes == 3 * 4 * numbers


def test_low_rank_with_all_directions_is_full() -> None:
    x, y = features()
    full, low = ClassStatistics(), ClassStatistics("low_rank", rank=50)
    for kept in (full, low):
        kept.add(x, y)
    assert low.factors[0].shape == (5, 5)
    torch.testing.assert_close(low.covariance_of(1), full.covariance_of(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("covariance", ["full", "diagonal", "low_rank"])
def test_what_is_drawn_has_the_distribution(covariance: Kind) -> None:
    """40,000 draws: mean and covariance within five standard errors, and marginals that are normal."""
    x, y = features()
    kept = ClassStatistics(covariance, rank=2 if covariance == "low_rank" else None, ridge=0.5)
    kept.add(x, y)
    number = 40_000
    drawn = kept.draw(1, number, torch.Generator().manual_seed(0), shrink=0.95).double()
    mean, covariance_of_draws = drawn.mean(0), drawn.T.cov()
    expected = kept.covariance_of(1).double()
    spread = expected.diag().sqrt()
    assert ((mean - 0.95 * kept.means[1]).abs() < 5 * spread / math.sqrt(number)).all()
    error = torch.outer(spread, spread) * math.sqrt(2 / number)
    assert ((covariance_of_draws - expected).abs() < 5 * error).all()
    standard = (drawn - mean) / drawn.std(0)
    assert ((standard**3).mean(0).abs() < 5 * math.sqrt(6 / number)).all()
    assert (((standard**4).mean(0) - 3).abs() < 5 * math.sqrt(24 / number)).all()
    again = kept.draw(1, number, torch.Generator().manual_seed(0), shrink=0.95)
    other = kept.draw(1, number, torch.Generator().manual_seed(1), shrink=0.95)
    assert torch.equal(again.double(), drawn) and not torch.equal(other.double(), drawn)


def test_a_class_of_one_image_has_the_ridge_alone() -> None:
    kept = ClassStatistics(ridge=0.25)
    kept.add(torch.ones(1, 3), torch.tensor([4]))
    torch.testing.assert_close(kept.covariance_of(4), 0.25 * torch.eye(3))
    assert torch.equal(kept.means[4], torch.ones(3))


def test_drift_by_hand() -> None:
    """m += sum_i w_i (after_i - before_i), w_i = exp(-|before_i - m|^2 / 2 s^2) + 1e-5, normalised; covariances stay."""
    x, y = features()
    kept = ClassStatistics()
    kept.add(x, y)
    means = {label: mean.double() for label, mean in kept.means.items()}
    factors = {label: factor.clone() for label, factor in kept.factors.items()}
    generator = torch.Generator().manual_seed(3)
    before = 3 * torch.randn(9, 5, generator=generator)
    after = before + torch.randn(9, 5, generator=generator)
    kept.move(before, after, width=1.5)
    for label, mean in means.items():
        weights = [
            math.exp(-sum((b - m) ** 2 for b, m in zip(row, mean.tolist(), strict=True)) / (2 * 1.5**2)) + 1e-5
            for row in before.double().tolist()
        ]
        step = sum(w * (a - b) for w, a, b in zip(weights, after.double(), before.double(), strict=True)) / sum(weights)
        torch.testing.assert_close(kept.means[label].double(), mean + step, atol=1e-6, rtol=0)
        assert torch.equal(kept.factors[label], factors[label])


def test_a_step_of_all_images_moves_every_mean_by_it() -> None:
    """Far from all images too: the floor weighs them alike."""
    kept = ClassStatistics()
    kept.add(torch.full((1, 3), 100.0), torch.tensor([0]))
    before = torch.zeros(6, 3)
    kept.move(before, before + torch.tensor([1.0, -2.0, 0.5]), width=4.0)
    torch.testing.assert_close(kept.means[0], torch.tensor([101.0, 98.0, 100.5]))


def test_its_state_is_all_of_it() -> None:
    x, y = features()
    kept, other = ClassStatistics("low_rank", rank=2), ClassStatistics("low_rank", rank=2)
    kept.add(x, y)
    other.restore(kept.state())
    drawn = [s.draw(2, 4, torch.Generator().manual_seed(0)) for s in (kept, other)]
    assert torch.equal(*drawn)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"covariance": "half"}, "covariance is 'half', expected one of full, diagonal, low_rank"),
    ({"covariance": "low_rank"}, "rank is None with covariance='low_rank'"),
    ({"rank": 3}, "rank is 3 with covariance='full'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassStatistics(**options)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="features are not finite"):
        ClassStatistics().add(torch.full((2, 3), float("nan")), torch.tensor([0, 0]))
