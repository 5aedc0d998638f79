"""Synthetic results of a stream whose tasks are measured differently: made-up numbers, the real schema."""

from __future__ import annotations

from typing import Any

from results_factory import make_results

from mtpeft.evaluation import compute_measures, matrix_of

#: name, metric, unit, higher_is_better; the value when learned, and what each later task changes for the worse
TASKS = (
    ("semseg", "mIoU", "%", True, 52.0, 6.0),
    ("depth", "rmse", "m", False, 0.25, 0.08),
    ("normals", "mean", "deg", False, 18.0, 4.0),
)


def make_dense(name: str = "adaptformer", seed: int = 0, harm: float = 1.0, single: bool = False) -> dict[str, Any]:
    """Segmentation, depth and normals in turn; `harm` scales what is forgotten."""
    results = make_results(name, seed, total=len(TASKS))
    for j, (task, metric, unit, higher, _, _) in enumerate(TASKS):
        results["tasks"][j] |= {
            "name": task,
            "metric": metric,
            "unit": unit,
            "higher_is_better": higher,
            "classes": [],
        }
    results["matrix"]["values"] = [[_value(i, j, seed, harm) for j in range(len(TASKS))] for i in range(len(TASKS))]
    results["reference"]["random_init"] = [4.0, 2.1, 61.0]
    for baseline, scale in (("linear_probe", 0.9), ("nearest_class_mean", 0.8)):
        levels = [level * (scale if higher else 1 / scale) for _, _, _, higher, level, _ in TASKS]
        results["baselines"][baseline] = {"values": [round(level, 3) for level in levels]}
    alone = [53.0, 0.24, 17.5] if single else None
    if alone:
        results["reference"]["single_task"] = alone
    measures = compute_measures(matrix_of(results), results["reference"]["random_init"], alone)
    results["measures"] = [measure.to_dict() for measure in measures]
    names = [task[0] for task in TASKS]
    results["parameters"]["trainable_per_task"] = dict.fromkeys(names, 75264)
    old = dict.fromkeys(point["task"] for point in results["curves"]["train_loss"])
    renamed = dict(zip(old, names, strict=True))
    for point in results["curves"]["train_loss"]:
        point["task"] = renamed[point["task"]]
    return results


def _value(i: int, j: int, seed: int, harm: float) -> float:
    _, _, _, higher, level, loss = TASKS[j]
    if i < j:
        return round(level * (0.1 if higher else 3.0), 4)
    worse = harm * loss * (i - j) + 0.01 * seed * level
    return round(level - worse if higher else level + worse, 4)
