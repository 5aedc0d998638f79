"""What a run is measured by: the accuracy matrix, the measures derived from it, and results.json."""

from mtpeft.evaluation.matrix import AccuracyMatrix, TaskMetric
from mtpeft.evaluation.measures import Measure, compute_measures
from mtpeft.evaluation.results import SCHEMA_VERSION, matrix_of, read, validate, write

__all__ = [
    "SCHEMA_VERSION",
    "AccuracyMatrix",
    "Measure",
    "TaskMetric",
    "compute_measures",
    "matrix_of",
    "read",
    "validate",
    "write",
]
