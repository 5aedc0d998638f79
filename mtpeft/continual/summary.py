"""The content of results.json (see mtpeft/evaluation/SCHEMA.md). It holds no time and no path: a resumed run gives the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtpeft.continual.confusion import confusion
from mtpeft.data.streams import Stream
from mtpeft.evaluation.measures import compute_measures
from mtpeft.evaluation.run_facts import parameter_facts, run_facts

if TYPE_CHECKING:
    from mtpeft.continual.experiment import Experiment

PICTURES = "pictures"  # the folder of clip strips in a run's folder


def summarise(experiment: Experiment) -> dict[str, Any]:
    """The content of results.json (see mtpeft/evaluation/SCHEMA.md)."""
    manager, values = experiment.manager, experiment.matrix.to_dict()
    described = experiment.stream.describe()
    single = experiment.single_task
    return {
        "schema": 1,
        "kind": "continual",
        **run_facts(experiment),
        "scenario": experiment.stream.kind,
        "tasks": [
            {
                "name": metric.name,
                "metric": metric.metric,
                "unit": metric.unit,
                "higher_is_better": metric.higher_is_better,
                "classes": task["classes"],
                "train_samples": task["train_images"],
                "test_samples": task["test_images"],
            }
            for metric, task in zip(experiment.metrics, described["tasks"], strict=True)
        ],
        "matrix": {"values": values["values"], "samples": values["samples"]},
        "reference": {"random_init": experiment.reference, **({} if single is None else {"single_task": single})},
        "baselines": experiment.baselines,
        "measures": [m.to_dict() for m in compute_measures(experiment.matrix, experiment.reference, single)],
        "parameters": {**parameter_facts(manager), "trainable_per_task": _per_task(experiment)},
        **_optional(experiment),
    }


def _optional(experiment: Experiment) -> dict[str, Any]:
    """Keys for streams of classes, and of clips."""
    found: dict[str, Any] = {}
    if isinstance(experiment.stream, Stream) and experiment.predictions:
        found["confusion"] = confusion(experiment.stream, experiment.predictions)
    if experiment.strips:
        found["pictures"] = PICTURES
    return found


def _per_task(experiment: Experiment) -> dict[str, int]:
    names = {t.name: t.name for t in experiment.stream}
    if experiment.stream.kind == "domain_incremental":
        names = {t.name: experiment.manager.tasks[0] for t in experiment.stream}
    return {name: experiment.manager.num_trainable(task, heads=False) for name, task in names.items()}
