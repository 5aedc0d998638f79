"""The accuracy matrix keeps what it is given, knows what is missing, and refuses what cannot be right."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mtpeft.errors import MtpeftError
from mtpeft.evaluation import AccuracyMatrix, TaskMetric


def two_tasks() -> AccuracyMatrix:
    matrix = AccuracyMatrix([TaskMetric("birds"), TaskMetric("depth", "rmse", "m", higher_is_better=False)])
    matrix.set(0, 0, 90.5, samples=100)
    matrix.set(1, 0, 80.0, samples=100)
    matrix.set(1, 1, 0.7, samples=30)
    return matrix


def test_entries_rows_and_columns():
    matrix = two_tasks()
    assert len(matrix) == 2
    assert matrix.names == ["birds", "depth"]
    assert matrix[1, 0] == 80.0
    assert math.isnan(matrix[0, 1]), "not evaluated is NaN"
    np.testing.assert_equal(matrix.row(0), [90.5, np.nan])
    np.testing.assert_equal(matrix.column(0), [90.5, 80.0])
    assert matrix.samples.tolist() == [[100, 0], [100, 30]]
    assert matrix.signs.tolist() == [1, -1]
    assert matrix.index("depth") == 1


def test_rows_are_copies():
    matrix = two_tasks()
    matrix.row(1)[:] = 0
    matrix.column(0)[:] = 0
    assert matrix[1, 0] == 80.0


def test_round_trip_through_json():
    matrix = two_tasks()
    text = json.dumps(matrix.to_dict(), allow_nan=False)
    again = AccuracyMatrix.from_dict(json.loads(text))
    assert json.loads(text)["values"] == [[90.5, None], [80.0, 0.7]]
    assert again.tasks == matrix.tasks
    np.testing.assert_equal(again.values, matrix.values)
    np.testing.assert_equal(again.samples, matrix.samples)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((2, 0, 1.0, 1), r"entry \(2, 0\) is outside the accuracy matrix of 2 tasks"),
        ((0, -1, 1.0, 1), r"entry \(0, -1\) is outside"),
        ((1, 0, float("nan"), 1), "accuracy on task 'birds' after training on task 'depth' is nan"),
        ((1, 1, float("inf"), 1), "rmse on task 'depth' after training on task 'depth' is inf"),
        ((0, 0, 1.0, 0), "was computed on 0 samples"),
    ],
)
def test_wrong_entries_are_refused_and_change_nothing(entry, message):
    matrix = two_tasks()
    before = matrix.values.copy()
    with pytest.raises(MtpeftError, match=message):
        matrix.set(*entry)
    np.testing.assert_equal(matrix.values, before)


def test_wrong_streams_are_refused():
    with pytest.raises(MtpeftError, match="at least one task"):
        AccuracyMatrix([])
    with pytest.raises(MtpeftError, match="task 'a' occurs twice"):
        AccuracyMatrix([TaskMetric("a"), TaskMetric("b"), TaskMetric("a")])
    with pytest.raises(MtpeftError, match=r"unknown task 'bird'.*Did you mean 'birds'"):
        two_tasks().index("bird")


def test_from_dict_refuses_a_matrix_that_is_not_square():
    data = two_tasks().to_dict()
    data["samples"] = [[1, 1]]
    with pytest.raises(MtpeftError, match=r"matrix\.samples must be 2 rows of 2 entries"):
        AccuracyMatrix.from_dict(data)
