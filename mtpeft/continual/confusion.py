"""Which classes a run takes for which: its predictions on the test sets, counted by true and predicted class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mtpeft.data.streams import TASK_KNOWN, Stream, StreamTask
from mtpeft.evaluation.definitions import ClassCounts


def class_names(stream: Stream, task: StreamTask) -> dict[int, str]:
    """Name of every label among which samples of `task` are told apart: its own, or those of all tasks."""
    names = dict(zip(stream.class_order, stream.class_names, strict=True))
    tasks = [task] if stream.kind in TASK_KNOWN else list(stream)
    found = {label: names[old] for one in tasks for label, old in zip(one.labels, one.classes, strict=True)}
    return dict(sorted(found.items()))


def confusion(stream: Stream, predictions: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """The key `confusion` of results.json. `predictions`: by task, the predicted label of every test sample in order."""
    found = []
    for task in stream:
        if task.name not in predictions:
            continue
        names = class_names(stream, task)
        column = {label: place for place, label in enumerate(names)}
        row = {label: place for place, label in enumerate(sorted(task.labels))}
        counts = [[0] * len(names) for _ in row]
        for true, predicted in zip(task.test.targets, predictions[task.name], strict=True):
            counts[row[true]][column[predicted]] += 1
        rows = [column[label] for label in row]
        found.append({"task": task.name, "classes": list(names.values()), "rows": rows, "counts": counts})
    return found


def class_counts(stream: Stream, predictions: Mapping[str, Sequence[int]]) -> list[ClassCounts]:
    """Each class of each task that has predictions: its training and test items, and those predicted right."""
    found = []
    for task in stream:
        if task.name not in predictions:
            continue
        pairs = zip(task.test.targets, predictions[task.name], strict=True)
        right = Counter(true for true, predicted in pairs if true == predicted)
        train, test = Counter(task.train.targets), Counter(task.test.targets)
        found += [ClassCounts(train[label], test[label], right[label]) for label in task.labels]
    return found
