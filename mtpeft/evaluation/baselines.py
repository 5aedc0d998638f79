"""Frozen baselines: what a stream's features give without training the backbone at all.

Both see the training data of all tasks, so they forget nothing; a method that ends below them was not worth training.

- Linear probe (Kornblith, Shlens, Le 2019, arXiv 1805.08974): multinomial logistic regression with an L2 penalty, by
  L-BFGS, on standardised features; the penalty is picked on a held-out fifth of the training images, then all of them
  are fitted. On raw pixels and on features of a random network it was better than least squares on +1/-1 targets, the
  best penalty of each compared.
- Nearest class mean (Mensink et al. 2013): the class whose mean training feature has the largest cosine with the
  image's feature, both after subtraction of the mean over the training images.

One classifier per task where the task is known (task-incremental); one over all tasks otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtpeft.data.labelled import Labelled
from mtpeft.data.streams import Stream
from mtpeft.errors import DataError

if TYPE_CHECKING:
    from mtpeft.manager.manager import TaskManager

PENALTIES = (0.1, 1.0, 10.0, 100.0)
HELD_OUT = 5  # every fifth image of a class picks the penalty

Features = Callable[[Tensor], Tensor]
"""Images float (B, 3, H, W), or clips as `Clips` gives them -> features (B, d)."""


@dataclass(frozen=True)
class TaskFeatures:
    """The features of one task: (N, d) and labels (N,) for its training and its test images."""

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class StreamFeatures:
    """The features of a whole stream, in memory: every baseline uses the same ones."""

    kind: str
    tasks: tuple[TaskFeatures, ...]


@dataclass(frozen=True)
class Baseline:
    """Accuracies as fractions, `per_task` with the number of test `samples` behind each."""

    name: str
    per_task: dict[str, float]
    samples: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def average(self) -> float:
        """The mean over tasks."""
        return sum(self.per_task.values()) / len(self.per_task)

    @property
    def joint(self) -> float:
        """The accuracy over the test images of all tasks."""
        right = sum(self.per_task[name] * count for name, count in self.samples.items())
        return right / sum(self.samples.values())

    def describe(self) -> dict[str, Any]:
        """All of it in plain types, for results.json."""
        return {
            "name": self.name,
            "per_task": dict(self.per_task),
            "samples": dict(self.samples),
            "average": self.average,
            "joint": self.joint,
            "settings": dict(self.settings),
        }


def extract_features(stream: Stream, features: Features, batch_size: int = 256) -> StreamFeatures:
    """Run `features` once over every image of the stream, without augmentation and without gradient.

    The caller puts the backbone in eval mode. Raises `DataError` when `features` does not return (B, d) finite numbers.
    """
    tasks = []
    for task in stream:
        train, train_labels = _features_of(task.train, features, batch_size)
        test, test_labels = _features_of(task.test, features, batch_size)
        tasks.append(TaskFeatures(task.name, train, train_labels, test, test_labels))
    return StreamFeatures(stream.kind, tuple(tasks))


def frozen_features(manager: TaskManager, device: torch.device) -> Features:
    """Pooled features of the manager's backbone alone, without any method; of clips the mean over frames and views."""
    backbone: Any = manager.backbone
    backbone.eval()

    def features(x: Tensor) -> Tensor:
        default, count = manager.runtime.default, len(x)
        if x.ndim > 4:  # (B, C, T, H, W) or (B, V, C, T, H, W): all frames of all views side by side
            x = x.movedim(-4, -3).flatten(0, -4)
        manager.runtime.set_default(None)
        try:
            found = backbone.forward_head(backbone.forward_features(x.to(device)), pre_logits=True)
        finally:
            manager.runtime.set_default(default)
        return found.unflatten(0, (count, -1)).mean(1).cpu()

    return features


def frozen_baselines(stream: Stream, features: Features, batch_size: int = 256) -> dict[str, Baseline]:
    """Both baselines from one pass over the images: {"linear_probe": ..., "nearest_class_mean": ...}."""
    extracted = extract_features(stream, features, batch_size)
    made = (linear_probe(extracted), nearest_class_mean(extracted))
    return {baseline.name: baseline for baseline in made}


def linear_probe(extracted: StreamFeatures, penalties: Sequence[float] = PENALTIES, iterations: int = 100) -> Baseline:
    """Logistic regression on frozen features. `penalties` are tried on the held-out images; with one, none is held out.

    A penalty l2 adds l2 / 2 * |W|^2 to the cross-entropy summed over images; the bias is free. `settings` states the
    penalty of each classifier.
    """
    chosen: list[float] = []

    def fit(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        penalty = _pick_penalty(x, y, penalties, iterations)
        chosen.append(penalty)
        return _logistic_regression(x, y, penalty, iterations)

    per_task, samples = _evaluate(extracted, fit)
    return Baseline(
        "linear_probe", per_task, samples, {"l2": chosen, "l2_tried": list(penalties), "iterations": iterations}
    )


def nearest_class_mean(extracted: StreamFeatures) -> Baseline:
    """Largest cosine to a class mean, after centring."""
    per_task, samples = _evaluate(extracted, _class_means)
    return Baseline("nearest_class_mean", per_task, samples, {"distance": "cosine after centring"})


def _features_of(images: Labelled, features: Features, batch_size: int) -> tuple[Tensor, Tensor]:
    plain = images.plain()
    rows, labels = [], []
    for start in range(0, len(plain), batch_size):
        x, y = plain.batch(range(start, min(start + batch_size, len(plain))))
        with torch.no_grad():
            row = features(x)
        if row.ndim != 2 or len(row) != len(x):
            raise DataError(
                f"{images.name}: features of shape {tuple(row.shape)} for {len(x)} images, expected ({len(x)}, d)"
            )
        if not torch.isfinite(row).all():
            raise DataError(f"{images.name}: features of images {start} to {start + len(x) - 1} are not all finite")
        rows.append(row.float().cpu())
        labels.append(y)
    return torch.cat(rows), torch.cat(labels)


Fit = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]
"""Features (N, d) and labels (N,) -> a classifier from features (B, d) to labels (B,)."""


def _evaluate(extracted: StreamFeatures, fit: Fit) -> tuple[dict[str, float], dict[str, int]]:
    classify = None
    if extracted.kind != "task_incremental":
        tasks = extracted.tasks
        classify = fit(torch.cat([task.train for task in tasks]), torch.cat([task.train_labels for task in tasks]))
    per_task, samples = {}, {}
    for task in extracted.tasks:
        classifier = classify or fit(task.train, task.train_labels)
        right = classifier(task.test) == task.test_labels
        per_task[task.name] = int(right.sum()) / len(right)
        samples[task.name] = len(right)
    return per_task, samples


def _class_means(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    classes, place = torch.unique(y, return_inverse=True)
    centre = x.mean(dim=0)
    means = torch.zeros(len(classes), x.shape[1]).index_add_(0, place, x - centre)  # (C, d), up to a positive factor
    directions = F.normalize(means, dim=1)
    return lambda features: classes[((features - centre) @ directions.T).argmax(dim=1)]


def _pick_penalty(x: Tensor, y: Tensor, penalties: Sequence[float], iterations: int) -> float:
    """The penalty with the best held-out accuracy; of equals, the larger."""
    if len(penalties) == 1:
        return penalties[0]
    rank = torch.zeros(len(y), dtype=torch.long)
    for label in y.unique():
        members = (y == label).nonzero()[:, 0]
        rank[members] = torch.arange(len(members))
    held = rank % HELD_OUT == HELD_OUT - 1
    if not held.any():
        return max(penalties)
    scores = []
    for penalty in penalties:
        classify = _logistic_regression(x[~held], y[~held], penalty, iterations)
        scores.append(((classify(x[held]) == y[held]).float().mean().item(), penalty))
    return max(scores)[1]


def _logistic_regression(x: Tensor, y: Tensor, penalty: float, iterations: int) -> Callable[[Tensor], Tensor]:
    classes, place = torch.unique(y, return_inverse=True)
    logits = fit_logits(x, place, penalty, iterations)
    return lambda features: classes[logits(features).argmax(dim=1)]


def fit_logits(x: Tensor, y: Tensor, penalty: float, iterations: int) -> Callable[[Tensor], Tensor]:
    """Minimise, over W and b, the cross-entropy summed over images plus penalty / 2 * |W|^2, on standardised features.

    `x` is (N, d), `y` (N,) holds labels 0..C-1; returns a function from features (B, d) to logits (B, C).
    """
    mean, scale = x.mean(dim=0), x.std(dim=0, unbiased=False) + 1e-5
    standard = (x - mean) / scale
    classes = int(y.max()) + 1
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        loss = F.cross_entropy(F.linear(standard, weight, bias), y) + penalty / (2 * len(x)) * weight.square().sum()
        loss.backward()
        return loss.item()

    with torch.enable_grad():
        optimiser.step(closure)
    final_weight, final_bias = weight.detach(), bias.detach()
    return lambda features: F.linear((features - mean) / scale, final_weight, final_bias)
