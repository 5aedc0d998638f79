"""Passes of a batch through backbone and heads: for one task, for a task of each image's own, for several tasks each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from mtpeft.hooks.runtime import Selection
from mtpeft.manager.classes import scores
from mtpeft.manager.features import apply_head, extract, prepare, rows_of
from mtpeft.manager.protocol import Managed
from mtpeft.sharing.bank import task_rows


def one_task(manager: Managed, images: torch.Tensor, task: str) -> Any:
    """The output of a task's head for `images` (B, C, H, W), clips or rows."""
    if (found := scores(manager, images, task)) is not None:
        return found
    return apply_head(manager.head(task), extract(manager, images, Selection((task,)), _kinds(manager, (task,))))


def a_task_each(manager: Managed, images: torch.Tensor, tasks: Sequence[str], index: torch.Tensor) -> dict[str, Any]:
    """{task: (its rows of the batch (n,), output of those)}: image i is for `tasks[index[i]]`, all in one pass."""
    place = images.device
    if any(getattr(manager.head(name), "classifies", False) for name in tasks):
        whose = {name: row.to(place) for name, row in zip(tasks, task_rows(index, len(tasks)), strict=True)}
        return {name: (row, one_task(manager, images[row], name)) for name, row in whose.items()}
    rows = [row.to(place, non_blocking=True) for row in task_rows(index, len(tasks))]
    selection = Selection(tuple(tasks), index.to(place, non_blocking=True), rows=rows)
    features = extract(manager, images, selection, _kinds(manager, tasks))
    return {
        name: (row, apply_head(manager.head(name), rows_of(features, row)))
        for name, row in zip(tasks, rows, strict=True)
    }


def every_task(manager: Managed, images: torch.Tensor, tasks: Sequence[str]) -> dict[str, Any]:
    """{task: output} of all images for each of `tasks`: in one pass where the methods allow it, else in one for each."""
    names = tuple(tasks)
    if any(getattr(manager.head(name), "classifies", False) for name in names):
        return {name: one_task(manager, images, name) for name in names}
    if not manager.single_pass:
        prepared = prepare(manager, names, images)
        single = {t: extract(manager, images, Selection((t,)), _kinds(manager, (t,)), prepared) for t in names}
        return {t: apply_head(manager.head(t), features) for t, features in single.items()}
    features = extract(manager, images, Selection(names, each=True), _kinds(manager, names))
    if not any(a.spec.stream for a in manager.methods):
        return {t: apply_head(manager.head(t), features) for t in names}
    count = images.shape[0]
    parts = [slice(i * count, (i + 1) * count) for i in range(len(names))]
    return {t: apply_head(manager.head(t), rows_of(features, part)) for t, part in zip(names, parts, strict=True)}


def _kinds(manager: Managed, tasks: Iterable[str]) -> set[str]:
    """What the heads of `tasks` read."""
    return {getattr(manager.head(task), "reads", "pooled") for task in tasks}
