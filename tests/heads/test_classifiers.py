"""Classifiers without a gradient, against their formulas in loops and float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mtpeft.errors import ConfigError, DataError
from mtpeft.heads.classifiers import Classifier, build_classifier

D = 6


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / math.sqrt(float((a * a).sum()) * float((b * b).sum())))


def taught(
    config: dict[str, Any], sizes: list[int], views: Any, seed: int = 0
) -> tuple[Classifier, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A classifier that learnt tasks of so many classes, five images of each, and what it was shown."""
    generator = torch.Generator().manual_seed(seed)
    classifier, shown = build_classifier(config, D).double(), []
    for task, size in enumerate(sizes):
        classifier.grow(f"t{task}", size)
        classifier.double()
        labels = torch.arange(5 * size) % size
        features = (
            torch.randn(len(labels), views(task), D, generator=generator, dtype=torch.float64) + labels[:, None, None]
        )
        classifier.learn(f"t{task}", features, labels)
        shown.append((features, labels))
    return classifier, shown


@pytest.mark.parametrize(("features", "views"), [("trained", 1), ("frozen", 1), ("both", 2)])
def test_prototypes_are_class_means_compared_by_cosine(features: str, views: int) -> None:
    classifier, shown = taught({"name": "prototypes", "features": features}, [2, 3], lambda _: views)
    assert classifier.views == {"both": ("frozen", "trained")}.get(features, (features,))
    x = torch.randn(4, views, D, dtype=torch.float64)
    means = [f[y == c].mean(0).flatten() for f, y in shown for c in range(int(y.max()) + 1)]
    expected = torch.tensor([[cosine(row.flatten(), mean) for mean in means] for row in x], dtype=torch.float64)
    torch.testing.assert_close(classifier(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("projection", [7, 60])  # fewer random features than images, and more
def test_ranpac_is_one_ridge_over_all_images(projection: int) -> None:
    classifier, shown = taught({"name": "ranpac", "projection": projection, "seed": 3}, [2, 3], lambda _: 1)
    w = torch.randn(D, projection, generator=torch.Generator().manual_seed(3)).double()
    torch.testing.assert_close(classifier.get_buffer("directions"), w, atol=0, rtol=0)
    h = torch.cat([f[:, 0] @ w for f, _ in shown]).clamp_min(0)
    y = torch.zeros(len(h), 5, dtype=torch.float64)
    start, row = 0, 0
    for _, labels in shown:
        for label in labels.tolist():
            y[row, start + label] = 1
            row += 1
        start += int(labels.max()) + 1
    penalty = chosen(*shown[-1], w)
    assert float(classifier.get_buffer("penalty")) == penalty
    x = torch.randn(4, 1, D, dtype=torch.float64)
    expected = (x[:, 0] @ w).clamp_min(0) @ torch.linalg.inv(h.T @ h + penalty * torch.eye(projection)) @ h.T @ y
    torch.testing.assert_close(classifier(x), expected, atol=1e-6, rtol=1e-6)


def chosen(features: torch.Tensor, labels: torch.Tensor, w: torch.Tensor) -> float:
    """The regulariser with the least squared error on the last fifth of the images."""
    h, y = (features[:, 0] @ w).clamp_min(0), torch.eye(int(labels.max()) + 1, dtype=torch.float64)[labels]
    cut = len(h) - len(h) // 5
    errors = {}
    for power in range(-8, 9):
        system = h[:cut].T @ h[:cut] + 10.0**power * torch.eye(h.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(system, h[:cut].T @ y[:cut])
        errors[10.0**power] = float(((h[cut:] @ weights - y[cut:]) ** 2).mean())
    return min(errors, key=lambda p: errors[p])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranpac_tries_no_regulariser_below_the_rounding_of_its_sums(dtype: torch.dtype) -> None:
    """Fewer images than random features, which one of the smallest would fit best: G knows nothing of it in float32."""
    generator = torch.Generator().manual_seed(0)
    classifier: Any = build_classifier({"name": "ranpac", "projection": 400}, D)
    classifier.grow("birds", 2)
    classifier.to(dtype)
    labels = torch.arange(100) % 2
    centres = torch.randn(6, D, generator=generator)
    features = 30 * (centres[labels] + 0.01 * torch.randn(100, D, generator=generator))
    classifier.learn("birds", features[:, None].to(dtype), labels)
    rounding = torch.finfo(dtype).eps * float(classifier.gram.trace())
    assert float(classifier.penalty) >= rounding
    assert (float(classifier.penalty) > 1) == (dtype == torch.float32)


def test_the_order_of_tasks_changes_no_sum_of_ranpac() -> None:
    one, shown = taught({"name": "ranpac", "projection": 20}, [2, 2, 2], lambda _: 1)
    other = build_classifier({"name": "ranpac", "projection": 20}, D).double()
    for task in (2, 0, 1):
        other.grow(f"t{task}", 2)
        other.double()
        other.learn(f"t{task}", *shown[task])
    torch.testing.assert_close(one.get_buffer("gram"), other.get_buffer("gram"), atol=1e-10, rtol=0)
    for task in range(3):
        torch.testing.assert_close(one.of(f"t{task}").products, other.of(f"t{task}").products, atol=0, rtol=0)


def test_ease_fills_in_prototypes_and_weighs_spaces() -> None:
    sizes, alpha = [2, 3, 2], 0.3
    classifier, shown = taught({"name": "ease", "alpha": alpha}, sizes, lambda task: task + 1)
    true = [[f[y == c].mean(0) for c in range(size)] for (f, y), size in zip(shown, sizes, strict=True)]
    x = torch.randn(4, 3, D, dtype=torch.float64)
    expected = []
    for row in x:
        scores = []
        for i, own in enumerate(true):
            for prototype in own:
                others = 0.0
                for j in range(3):
                    if j == i:
                        continue
                    if j < i:
                        there = prototype[j]
                    else:
                        likeness = [math.exp(cosine(prototype[i], new[i])) for new in true[j]]
                        there = sum(
                            (weight / sum(likeness)) * new[j] for weight, new in zip(likeness, true[j], strict=True)
                        )
                    others += cosine(row[j], there)
                scores.append(cosine(row[i], prototype[i]) + alpha / 2 * others)
        expected.append(scores)
    torch.testing.assert_close(classifier(x), torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


def test_ease_with_one_task_is_a_cosine() -> None:
    classifier, shown = taught({"name": "ease"}, [3], lambda _: 1)
    x = torch.randn(2, 1, D, dtype=torch.float64)
    means = [shown[0][0][shown[0][1] == c].mean(0)[0] for c in range(3)]
    expected = torch.tensor([[cosine(row[0], mean) for mean in means] for row in x], dtype=torch.float64)
    torch.testing.assert_close(classifier(x), expected, atol=1e-12, rtol=0)


def test_what_cannot_be_is_one_line() -> None:
    few = build_classifier({"name": "ranpac", "projection": 4}, D)
    few.grow("birds", 2)
    with pytest.raises(DataError, match=r"^task 'birds' has 4 training images; a ridge needs 5"):
        few.learn("birds", torch.zeros(4, 1, D), torch.tensor([0, 1, 0, 1]))
    for config, message in (
        ({"name": "ranpac", "projection": 0}, "projection"),
        ({"name": "ease", "alpha": -1.0}, "alpha"),
        ({"name": "prototypes", "features": "best"}, "features"),
        ({"name": "ease", "beta": 1}, "beta"),
        ({"features": "trained"}, "expected a mapping with a 'name'"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_classifier(config, D)
