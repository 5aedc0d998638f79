"""The formula of each measure, one function each, with where it comes from.

Notation of the formulas: T tasks, numbered 1 to T in the order of training; R[i, j] the metric on task j after
training on task i; n[i, j] its number of test samples; b[j] the metric on task j of the untrained model; s[j] = +1 when
a higher metric is better on task j, -1 when a lower one is. So a positive forgetting always means that the task got
worse, and a positive transfer that it got better.

A function raises `Undefined` with the reason where its formula has no value; None stands in a list for one such entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mtpeft.evaluation.matrix import AccuracyMatrix

CHAUDHRY = "Chaudhry et al. 2018, Riemannian Walk for Incremental Learning (ECCV), forgetting measure F_k"
GEM = "Lopez-Paz and Ranzato 2017, Gradient Episodic Memory (NeurIPS), section 2, equation {}"
ICARL = "Rebuffi et al. 2017, iCaRL (CVPR), section 4, average incremental accuracy"
MANINIS = (
    "Maninis et al. 2019, Attentive Single-Tasking of Multiple Tasks (CVPR), average per-task drop; "
    "Vandenhende et al. 2021, Multi-Task Learning for Dense Prediction Tasks (TPAMI), delta MTL"
)

Scalar = float | None
Value = Scalar | list[Scalar] | list[list[Scalar]]


@dataclass(frozen=True)
class ClassCounts:
    """One class at the end of a stream: training items, test items, and how many of these are classified right."""

    train: int
    test: int
    right: int


@dataclass(frozen=True)
class Inputs:
    """What measures are computed from: the matrix, and reference values per task or class where a measure needs them."""

    matrix: AccuracyMatrix
    random_init: np.ndarray | None
    single_task: np.ndarray | None
    classes: Sequence[ClassCounts] | None = None

    @property
    def total(self) -> int:
        """Number of tasks."""
        return len(self.matrix)

    @property
    def values(self) -> np.ndarray:
        """(T, T) the matrix R."""
        return self.matrix.values

    @property
    def scores(self) -> np.ndarray:
        """R with the sign turned where lower is better: more is always better."""
        return self.matrix.values * self.matrix.signs


class Undefined(Exception):
    """A measure has no value for these inputs; the message is the reason."""


@dataclass(frozen=True)
class Definition:
    """A registered measure: what `compute` returns, and how it is printed."""

    name: str
    title: str
    kind: str  # "level": in the metric's unit; "difference": a difference of two levels; "percent"
    formula: str
    source: str
    compute: Callable[[Inputs], Value]
    of_classes: bool = False  # whether it is one of runs whose classes are counted, and is left out of all others


REGISTRY: dict[str, Definition] = {}


def measure(
    name: str, title: str, kind: str, formula: str, source: str, of_classes: bool = False
) -> Callable[..., Callable[[Inputs], Value]]:
    """Registers the function below as a measure; the arguments are the fields of `Definition`."""

    def register(compute: Callable[[Inputs], Value]) -> Callable[[Inputs], Value]:
        REGISTRY[name] = Definition(name, title, kind, formula, source, compute, of_classes)
        return compute

    return register


def complete(values: np.ndarray, what: str) -> np.ndarray:
    """The values; raises `Undefined` where one is missing, `what` says of which."""
    missing = int(np.isnan(values).sum())
    if missing:
        raise Undefined(f"{missing} of {values.size} values are missing: {what}")
    return values


def comparable(inputs: Inputs) -> None:
    """Averages over tasks mean something only when all tasks have one metric, unit and direction."""
    kinds = sorted({f"{t.metric} ({t.unit or 'no unit'})" for t in inputs.matrix.tasks})
    if len({(t.metric, t.unit, t.higher_is_better) for t in inputs.matrix.tasks}) > 1:
        raise Undefined(f"tasks are measured differently: {', '.join(kinds)}; see the values per task")


def several(inputs: Inputs) -> None:
    """Raises `Undefined` for a stream of one task."""
    if inputs.total < 2:
        raise Undefined("needs at least two tasks, the stream has one")


def optional(values: np.ndarray) -> list[Scalar]:
    """Plain numbers, None for NaN."""
    return [None if np.isnan(v) else float(v) for v in values]


def running(inputs: Inputs, weighted: bool) -> np.ndarray:
    """(T,) average of the tasks seen so far after each task, plain or weighted by samples; NaN where incomplete."""
    result = np.full(inputs.total, np.nan)
    for k in range(inputs.total):
        seen = inputs.values[k, : k + 1]
        if not np.isnan(seen).any():
            result[k] = np.average(seen, weights=inputs.matrix.samples[k, : k + 1] if weighted else None)
    return result


@measure("average_accuracy", "Average accuracy", "level", "A_T = 1/T · Σ_j R[T, j]", GEM.format(2) + " (ACC)")
def _average_accuracy(inputs: Inputs) -> Value:
    comparable(inputs)
    return float(complete(inputs.values[-1], "the last row of R").mean())


@measure(
    "average_incremental_accuracy",
    "Average incremental accuracy",
    "level",
    "1/T · Σ_k A_k, with A_k = 1/k · Σ_{j≤k} R[k, j]",
    ICARL + " (there over all test samples seen: the same when all tasks have equally many)",
)
def _average_incremental_accuracy(inputs: Inputs) -> Value:
    comparable(inputs)
    return float(complete(running(inputs, weighted=False), "rows of R on and left of the diagonal").mean())


def accuracy_only(inputs: Inputs) -> None:
    """Raises `Undefined` where tasks are not all measured by accuracy, which alone may be weighted by samples."""
    comparable(inputs)
    metric = inputs.matrix.tasks[0].metric
    if metric != "accuracy":
        raise Undefined(f"weighting by samples is meaningful for accuracy, not for {metric}")


@measure(
    "sample_weighted_accuracy",
    "Accuracy over all seen test samples",
    "level",
    "S_T, with S_k = Σ_{j≤k} n[k, j]·R[k, j] / Σ_{j≤k} n[k, j]",
    ICARL + ", its value after the last task: the last accuracy A_B of class-incremental learning",
)
def _sample_weighted_accuracy(inputs: Inputs) -> Value:
    accuracy_only(inputs)
    return float(complete(running(inputs, weighted=True)[-1:], "the last row of R")[0])


@measure(
    "sample_weighted_incremental_accuracy",
    "Incremental accuracy over all seen test samples",
    "level",
    "1/T · Σ_k S_k, with S_k = Σ_{j≤k} n[k, j]·R[k, j] / Σ_{j≤k} n[k, j]",
    ICARL,
)
def _sample_weighted_incremental_accuracy(inputs: Inputs) -> Value:
    accuracy_only(inputs)
    return float(complete(running(inputs, weighted=True), "rows of R on and left of the diagonal").mean())


def forgetting_after(inputs: Inputs, k: int) -> np.ndarray:
    """(k,) forgetting of each earlier task after training on task k (counted from 0); NaN where rows are missing."""
    scores = inputs.scores
    # The paper defines a[l, j] for l >= j only: a value from before a task was learned is not something to forget.
    # np.max passes NaN on, so that a missing row never hides behind the others.
    return np.array([np.max(scores[j:k, j]) - scores[k, j] for j in range(k)])


@measure(
    "average_forgetting",
    "Average forgetting",
    "difference",
    "F_T = 1/(T-1) · Σ_{j<T} max_{j≤l<T} s[j]·(R[l, j] - R[T, j])",
    CHAUDHRY,
)
def _average_forgetting(inputs: Inputs) -> Value:
    several(inputs)
    comparable(inputs)
    return float(complete(forgetting_after(inputs, inputs.total - 1), "entries of R below the diagonal").mean())


@measure(
    "backward_transfer",
    "Backward transfer (BWT)",
    "difference",
    "1/(T-1) · Σ_{j<T} s[j]·(R[T, j] - R[j, j])",
    GEM.format(3),
)
def _backward_transfer(inputs: Inputs) -> Value:
    several(inputs)
    comparable(inputs)
    gain = (inputs.scores[-1] - np.diag(inputs.scores))[:-1]
    return float(complete(gain, "the diagonal and the last row of R").mean())


@measure(
    "forward_transfer",
    "Forward transfer (FWT)",
    "difference",
    "1/(T-1) · Σ_{j>1} s[j]·(R[j-1, j] - b[j])",
    GEM.format(4),
)
def _forward_transfer(inputs: Inputs) -> Value:
    several(inputs)
    comparable(inputs)
    if inputs.random_init is None:
        raise Undefined("the untrained model was not evaluated (b is missing)")
    gain = (np.diag(inputs.scores, k=1) - inputs.random_init[1:] * inputs.matrix.signs[1:]).astype(float)
    return float(complete(gain, "tasks evaluated just before they are learned").mean())


@measure(
    "multi_task_delta",
    "Multi-task delta",
    "percent",
    "100/T · Σ_j s[j]·(R[T, j] - q[j]) / q[j], q[j] the task trained alone",
    MANINIS,
)
def _multi_task_delta(inputs: Inputs) -> Value:
    if inputs.single_task is None:
        raise Undefined("no single-task values to compare with")
    return multi_task_delta(inputs.values[-1], inputs.single_task, inputs.matrix.signs)


def multi_task_delta(values: np.ndarray, single_task: np.ndarray, signs: np.ndarray) -> float:
    """100/T · Σ_j s[j]·(values[j] - q[j]) / q[j] in percent, all (T,); raises `Undefined` where that has no value."""
    single = complete(single_task, "single-task values")
    if not (single > 0).all():
        raise Undefined("a relative difference needs single-task values above zero")
    final = complete(values, "the last row of R")
    return float(100.0 * (signs * (final - single) / single).mean())


@measure(
    "learning_curve",
    "Learning curve",
    "level",
    "R[j, j] for each task j",
    "Lopez-Paz and Ranzato 2017 (GEM), diagonal of R",
)
def _learning_curve(inputs: Inputs) -> Value:
    return optional(np.diag(inputs.values))


@measure(
    "accuracy_curve",
    "Average accuracy after each task",
    "level",
    "A_k = 1/k · Σ_{j≤k} R[k, j] for each k",
    GEM.format(2) + " after each task",
)
def _accuracy_curve(inputs: Inputs) -> Value:
    comparable(inputs)
    return optional(running(inputs, weighted=False))


@measure(
    "forgetting_per_task",
    "Forgetting per task",
    "difference",
    "f_j = max_{j≤l<T} s[j]·(R[l, j] - R[T, j]) for each j < T",
    CHAUDHRY + ", per task",
)
def _forgetting_per_task(inputs: Inputs) -> Value:
    several(inputs)
    return [*optional(forgetting_after(inputs, inputs.total - 1)), None]


def _relative_forgetting(inputs: Inputs) -> np.ndarray:
    """(T-1,) what each earlier task lost since it was learned, in percent of its value then; NaN where undefined."""
    learned = np.diag(inputs.values)[:-1]
    lost = (np.diag(inputs.scores) - inputs.scores[-1])[:-1]
    return np.divide(100.0 * lost, np.abs(learned), out=np.full(len(lost), np.nan), where=learned != 0)


@measure(
    "average_relative_forgetting",
    "Average relative forgetting",
    "percent",
    "1/(T-1) · Σ_{j<T} g_j, with g_j = 100 · s[j]·(R[j, j] - R[T, j]) / |R[j, j]|",
    GEM.format(3) + ", with the other sign and relative as in Maninis et al. 2019 (CVPR), average per-task drop",
)
def _average_relative_forgetting(inputs: Inputs) -> Value:
    several(inputs)
    what = "the diagonal and the last row of R, or a value of zero on the diagonal"
    return float(complete(_relative_forgetting(inputs), what).mean())


@measure(
    "relative_forgetting_per_task",
    "Relative forgetting per task",
    "percent",
    "g_j = 100 · s[j]·(R[j, j] - R[T, j]) / |R[j, j]| for each j < T",
    GEM.format(3) + ", per task, with the other sign and relative as in Maninis et al. 2019 (CVPR)",
)
def _relative_forgetting_per_task(inputs: Inputs) -> Value:
    several(inputs)
    return [*optional(_relative_forgetting(inputs)), None]


@measure(
    "forgetting_curves",
    "Forgetting curve of each task",
    "difference",
    "for each j: f_j after each task k > j, max_{j≤l<k} s[j]·(R[l, j] - R[k, j])",
    CHAUDHRY + ", per task and step",
)
def _forgetting_curves(inputs: Inputs) -> Value:
    several(inputs)
    after = {k: optional(forgetting_after(inputs, k)) for k in range(1, inputs.total)}
    return [[after[k][j] for k in range(j + 1, inputs.total)] for j in range(inputs.total)]
