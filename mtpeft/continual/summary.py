"""What results.json says of stream, matrix and weights (see mtpeft/evaluation/SCHEMA.md). It holds no time and no path."""

from __future__ import annotations

from typing import Any

from mtpeft.continual.confusion import class_counts, confusion
from mtpeft.continual.inputs import tasks_of
from mtpeft.continual.progress import Measured
from mtpeft.data.dense.stream import DenseStream
from mtpeft.data.streams import Stream
from mtpeft.evaluation.measures import compute_measures
from mtpeft.evaluation.run_facts import parameter_facts
from mtpeft.manager.manager import TaskManager
from mtpeft.runs.model_folder import ModelTask, ModelTasks


def summarise(manager: TaskManager, stream: Stream | DenseStream, measured: Measured) -> dict[str, Any]:
    """The keys of results.json that they give."""
    matrix, values = measured.matrix, measured.matrix.to_dict()
    described = stream.describe()
    single = measured.single_task
    found: dict[str, Any] = {}
    if isinstance(stream, Stream) and measured.predictions:
        found["confusion"] = confusion(stream, measured.predictions)
    classes = None
    if isinstance(stream, Stream) and "imbalance_factor" in stream.settings:
        classes = class_counts(stream, measured.predictions)
    return {
        "schema": 1,
        "kind": "continual",
        "scenario": stream.kind,
        "tasks": [
            {
                "name": metric.name,
                "metric": metric.metric,
                "unit": metric.unit,
                "higher_is_better": metric.higher_is_better,
                "classes": task["classes"],
                "train_samples": task["train_images"],
                "test_samples": task["test_images"],
                **({"validation_samples": task["validation_images"]} if "validation_images" in task else {}),
            }
            for metric, task in zip(matrix.tasks, described["tasks"], strict=True)
        ],
        "matrix": {"values": values["values"], "samples": values["samples"]},
        "reference": {"random_init": measured.reference, **({} if single is None else {"single_task": single})},
        "baselines": measured.baselines,
        "measures": [m.to_dict() for m in compute_measures(matrix, measured.reference, single, classes)],
        "parameters": {**parameter_facts(manager), "trainable_per_task": _per_task(manager, stream)},
        **found,
    }


def model_tasks(manager: TaskManager, stream: Stream | DenseStream) -> ModelTasks:
    """What the outputs of the model mean, kept beside its weights."""
    if isinstance(stream, DenseStream):
        dense = [ModelTask.of_kind(task.name, task.kind, task.class_names, task.test.view) for task in stream]
        return ModelTasks(stream.kind, tuple(dense))
    name = dict(zip(stream.class_order, stream.class_names, strict=True))
    common = manager.tasks[0] if stream.kind == "domain_incremental" else None
    found = [ModelTask.of_classes(task, [name[k] for k in task.classes], common or task.name) for task in stream]
    return ModelTasks(stream.kind, tuple(found))


def _per_task(manager: TaskManager, stream: Stream | DenseStream) -> dict[str, int]:
    return {name: manager.num_trainable(task, heads=False) for name, task in tasks_of(stream, manager).items()}
