"""Evaluation: every task's measures over the validation samples, shared out over the processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from mtpeft.evaluation.definitions import Undefined, multi_task_delta
from mtpeft.joint.data import JointData
from mtpeft.joint.model import JointModel
from mtpeft.runs.distributed import gather, rank, world

Values = dict[str, dict[str, float | None]]


def predictions(
    model: JointModel, data: JointData, batch_size: int, device: torch.device, split: str = "val"
) -> Iterator[tuple[dict[str, Any], dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]]:
    """This process's batches of a split, "val" or "held", each with {task: (rows, output, label)}."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for source, view in enumerate(data.views(split)):
                own = range(rank(), len(view), world())
                for batch in data.batches(split, source, own, batch_size):
                    labels = {t: (r.to(device), y.to(device)) for t, (r, y) in batch["labels"].items() if len(r)}
                    found = model.outputs(batch["images"].to(device), {t: r for t, (r, _) in labels.items()})
                    yield batch, {t: (r, output.float(), labels[t][1]) for t, (r, output) in found.items()}
    finally:
        model.train(training)


def evaluate(model: JointModel, data: JointData, batch_size: int, device: torch.device, split: str = "val") -> Values:
    """{task: {metric: value}} over all processes; a metric without any valid pixel is None."""
    measures = {task: kind.measure() for task, kind in model.kinds.items()}
    for _, found in predictions(model, data, batch_size, device, split):
        for task, (_, output, label) in found.items():
            measures[task].update(output, label)
    if world() > 1:
        everyone = gather({task: measure.state() for task, measure in measures.items()})
        measures = {task: kind.measure() for task, kind in model.kinds.items()}
        for states in everyone:
            for task, state in states.items():
                measures[task].merge(state)
    return {task: measure.compute() for task, measure in measures.items()}


def main_values(model: JointModel, values: Values) -> dict[str, float | None]:
    """The main metric of each task."""
    return {task: values[task][kind.metric] for task, kind in model.kinds.items()}


def delta(model: JointModel, values: Values, single_task: Mapping[str, float | None]) -> float | None:
    """Multi-task delta in percent against single-task values; None where one of them is missing or not above zero."""
    main = main_values(model, values)
    columns = [[_number(found.get(task)) for task in model.kinds] for found in (main, single_task)]
    signs = np.array([1.0 if kind.higher_is_better else -1.0 for kind in model.kinds.values()])
    try:
        return multi_task_delta(np.array(columns[0]), np.array(columns[1]), signs)
    except Undefined:
        return None


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
