"""Measures derived from the accuracy matrix. Each names its formula and its source, in the file and on the page.

A measure that cannot be computed is None and says why: there is no fallback value. The formulas, and what their letters
stand for, are in definitions.py, those of class-incremental learning in seen_classes.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mtpeft.errors import DataError
from mtpeft.evaluation import seen_classes  # noqa: F401  (registers its measures)
from mtpeft.evaluation.definitions import REGISTRY, ClassCounts, Definition, Inputs, Undefined, Value
from mtpeft.evaluation.matrix import AccuracyMatrix


@dataclass(frozen=True)
class Measure:
    """One derived number, or one per task (`value` is then a list), with what it takes to recompute it.

    `value` is None, or holds None, where the measure is undefined; `reason` then says why and is else empty.
    """

    name: str
    title: str
    value: Value
    unit: str
    formula: str
    source: str
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def compute_measures(
    matrix: AccuracyMatrix,
    random_init: Sequence[float | None] | None = None,
    single_task: Sequence[float | None] | None = None,
    classes: Sequence[ClassCounts] | None = None,
) -> list[Measure]:
    """All measures of a stream, in a fixed order; undefined ones are None with a reason.

    `random_init`: (T,) metric of each task before any training (b, for forward transfer). `single_task`: (T,) metric of
    each task trained alone (for the multi-task delta). `classes`: of a stream with a long tail, the counts of each class;
    the measures of them are left out without. Raises `DataError` when their length is not T.
    """
    references: list[np.ndarray | None] = []
    for key, values in (("random_init", random_init), ("single_task", single_task)):
        if values is not None and len(values) != len(matrix):
            raise DataError(f"reference {key} has {len(values)} values for {len(matrix)} tasks; give one per task")
        references.append(None if values is None else np.array([np.nan if v is None else v for v in values], float))
    before, alone = references
    inputs = Inputs(matrix, before, alone, classes)
    wanted = [definition for definition in REGISTRY.values() if classes is not None or not definition.of_classes]
    return [_evaluate(definition, inputs) for definition in wanted]


def measure_names() -> list[str]:
    """Names of all measures, in the order of `compute_measures`."""
    return list(REGISTRY)


def _evaluate(definition: Definition, inputs: Inputs) -> Measure:
    value: Value
    try:
        value, reason = definition.compute(inputs), ""
        if isinstance(value, list) and _has_none(value):
            reason = _holes(definition)
    except Undefined as undefined:
        value, reason = None, str(undefined)
    unit = _unit(definition, inputs)
    return Measure(definition.name, definition.title, value, unit, definition.formula, definition.source, reason)


def _has_none(value: list[Any]) -> bool:
    return any(_has_none(v) if isinstance(v, list) else v is None for v in value)


def _holes(definition: Definition) -> str:
    if definition.kind in ("difference", "percent"):
        return "undefined for the last task, after which nothing is learned, and where an evaluation is missing"
    return "undefined where an evaluation is missing"


def _unit(definition: Definition, inputs: Inputs) -> str:
    if definition.kind in ("percent", "share"):
        return "%"
    units = {task.unit for task in inputs.matrix.tasks}
    if len(units) > 1:
        return "per task"
    unit = units.pop()
    # A difference of two percentages is counted in percentage points.
    return "points" if definition.kind == "difference" and unit == "%" else unit
