"""Measures of class-incremental learning, in the notation of definitions.py: all classes seen so far, old and new ones.

The last accuracy A_B and the average incremental accuracy are `sample_weighted_accuracy` and
`sample_weighted_incremental_accuracy` there: both weigh test images, not tasks.
"""

from __future__ import annotations

import numpy as np

from mtpeft.evaluation.definitions import (
    CHAUDHRY,
    ICARL,
    Inputs,
    Undefined,
    Value,
    accuracy_only,
    comparable,
    complete,
    measure,
    optional,
    running,
    several,
)

PILOT = "Sun et al. 2023, PILOT: A Pre-Trained Model-Based Continual Learning Toolbox (arXiv 2309.07117)"
CODA = "Smith et al. 2023, CODA-Prompt (CVPR), forgetting F_N"
LONG_TAIL = "Liu et al. 2019, Large-Scale Long-Tailed Recognition in an Open World (CVPR)"


@measure(
    "seen_accuracy_curve",
    "Accuracy over all seen test samples after each task",
    "level",
    "S_k = Σ_{j≤k} n[k, j]·R[k, j] / Σ_{j≤k} n[k, j] for each k",
    ICARL + ", its values after each task",
)
def _seen_accuracy_curve(inputs: Inputs) -> Value:
    accuracy_only(inputs)
    return optional(running(inputs, weighted=True))


@measure(
    "old_accuracy_curve",
    "Accuracy over the test samples of old tasks after each later one",
    "level",
    "Σ_{j<k} n[k, j]·R[k, j] / Σ_{j<k} n[k, j] for each k > 1; of the new classes it is R[k, k], the learning curve",
    ICARL + ", the old classes alone",
)
def _old_accuracy_curve(inputs: Inputs) -> Value:
    several(inputs)
    accuracy_only(inputs)
    found = np.full(inputs.total - 1, np.nan)
    for k in range(1, inputs.total):
        old = inputs.values[k, :k]
        if not np.isnan(old).any():
            found[k - 1] = np.average(old, weights=inputs.matrix.samples[k, :k])
    return optional(found)


@measure(
    "forgetting_from_best",
    "Forgetting from the best ever",
    "difference",
    "1/(T-1) · Σ_{j<T} max_{j≤l≤T} s[j]·(R[l, j] - R[T, j]), never below 0",
    PILOT + "; average forgetting is that of " + CHAUDHRY + ", whose maximum is over l < T",
)
def _forgetting_from_best(inputs: Inputs) -> Value:
    several(inputs)
    comparable(inputs)
    scores, last = inputs.scores, inputs.total - 1
    lost = np.array([np.max(scores[j:, j]) - scores[last, j] for j in range(last)])
    return float(complete(lost, "entries of R below the diagonal").mean())


@measure(
    "stepwise_forgetting",
    "Forgetting per step",
    "difference",
    "1/(T-1) · Σ_{k>1} 1/(k-1) · Σ_{j<k} s[j]·(R[k-1, j] - R[k, j])",
    CODA,
)
def _stepwise_forgetting(inputs: Inputs) -> Value:
    several(inputs)
    comparable(inputs)
    scores = inputs.scores
    steps = np.array([(scores[k - 1, :k] - scores[k, :k]).mean() for k in range(1, inputs.total)])
    return float(complete(steps, "steps with all entries of R on and left of the diagonal").mean())


def _accuracy_between(inputs: Inputs, least: float, most: float, what: str) -> Value:
    """Over the test items of classes with `least` to `most` training items, in percent."""
    chosen = [one for one in inputs.classes or () if least <= one.train <= most]
    tested = sum(one.test for one in chosen)
    if not tested:
        raise Undefined(f"no class has {what} training items")
    return 100.0 * sum(one.right for one in chosen) / tested


_FORMULA = "100 · Σ_c right[c] / Σ_c n[c] over the classes c with {} training items, at the end of the stream"


@measure("many_shot_accuracy", "Many-shot classes", "share", _FORMULA.format("over 100"), LONG_TAIL, of_classes=True)
def _many_shot_accuracy(inputs: Inputs) -> Value:
    return _accuracy_between(inputs, 101, float("inf"), "over 100")


@measure(
    "medium_shot_accuracy", "Medium-shot classes", "share", _FORMULA.format("20 to 100"), LONG_TAIL, of_classes=True
)
def _medium_shot_accuracy(inputs: Inputs) -> Value:
    return _accuracy_between(inputs, 20, 100, "20 to 100")


@measure("few_shot_accuracy", "Few-shot classes", "share", _FORMULA.format("under 20"), LONG_TAIL, of_classes=True)
def _few_shot_accuracy(inputs: Inputs) -> Value:
    return _accuracy_between(inputs, 0, 19, "under 20")
