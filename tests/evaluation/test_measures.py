"""Each measure against a 3 x 3 matrix computed by hand, against Avalanche, and where it is undefined."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mtpeft.errors import MtpeftError
from mtpeft.evaluation import AccuracyMatrix, Measure, TaskMetric, compute_measures
from mtpeft.evaluation.definitions import ClassCounts
from mtpeft.evaluation.measures import measure_names

ACCURACY = [  # rows: after training on task 1, 2, 3
    [90.0, 20.0, 10.0],
    [92.0, 95.0, 30.0],
    [70.0, 85.0, 99.0],
]
SAMPLES = [100, 200, 700]  # test samples of the three tasks
RANDOM_INIT = [12.0, 10.0, 10.0]
CLASSES = [ClassCounts(*counts) for counts in ((500, 10, 9), (101, 10, 7), (100, 10, 9), (20, 30, 16), (19, 8, 2))]

# Worked out with pencil and paper.
GOLDEN = {
    "average_accuracy": 84.66666666666667,  # (70 + 85 + 99) / 3 = 254 / 3
    # A_1 = 90, A_2 = (92 + 95) / 2 = 93.5, A_3 = 254 / 3; (90 + 93.5 + 84.6667) / 3
    "average_incremental_accuracy": 89.38888888888889,
    # (100 * 70 + 200 * 85 + 700 * 99) / 1000 = (7000 + 17000 + 69300) / 1000
    "sample_weighted_accuracy": 93.3,
    # S_1 = 90, S_2 = (100 * 92 + 200 * 95) / 300 = 28200 / 300 = 94, S_3 = 93.3; 277.3 / 3
    "sample_weighted_incremental_accuracy": 92.43333333333334,
    # task 1: max(90, 92) - 70 = 22; task 2: 95 - 85 = 10; (22 + 10) / 2
    "average_forgetting": 16.0,
    "forgetting_from_best": 16.0,  # as no final value is the best one
    # after task 2: 90 - 92 = -2; after task 3: ((92 - 70) + (95 - 85)) / 2 = 16; (-2 + 16) / 2
    "stepwise_forgetting": 7.0,
    "seen_accuracy_curve": [90.0, 94.0, 93.3],
    "old_accuracy_curve": [92.0, 80.0],  # (100 * 70 + 200 * 85) / 300 = 24000 / 300
    "many_shot_accuracy": 80.0,  # (9 + 7) of (10 + 10)
    "medium_shot_accuracy": 62.5,  # (9 + 16) of (10 + 30)
    "few_shot_accuracy": 25.0,
    "backward_transfer": -15.0,  # ((70 - 90) + (85 - 95)) / 2
    "forward_transfer": 15.0,  # ((20 - 10) + (30 - 10)) / 2
    # single-task 100, 100, 90: (-30 % - 15 % + 10 %) / 3 = -35 / 3
    "multi_task_delta": -11.666666666666666,
    # task 1: 20 of 90; task 2: 10 of 95; 2000 / 90 = 22.2222, 1000 / 95 = 10.5263, half their sum
    "average_relative_forgetting": 16.374269005847953,
    "relative_forgetting_per_task": [22.22222222222222, 10.526315789473685, None],
    "learning_curve": [90.0, 95.0, 99.0],
    "accuracy_curve": [90.0, 93.5, 84.66666666666667],
    "forgetting_per_task": [22.0, 10.0, None],
    # task 1: after task 2 90 - 92 = -2, after task 3 92 - 70 = 22; task 2: after task 3 95 - 85 = 10; task 3: never
    "forgetting_curves": [[-2.0, 22.0], [10.0], []],
}


def matrix_from(values, samples=(100, 100, 100), metric="accuracy", unit="%", higher=True) -> AccuracyMatrix:
    matrix = AccuracyMatrix([TaskMetric(f"task {j + 1}", metric, unit, higher) for j in range(len(values))])
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value is not None:
                matrix.set(i, j, value, samples[j])
    return matrix


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


@pytest.fixture(scope="module")
def golden() -> dict[str, Measure]:
    return by_name(compute_measures(matrix_from(ACCURACY, SAMPLES), RANDOM_INIT, [100.0, 100.0, 90.0], CLASSES))


@pytest.mark.parametrize("name", measure_names())
def test_golden(golden, name):
    assert_nested_equal(golden[name].value, GOLDEN[name])


def assert_nested_equal(found, expected):
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            assert_nested_equal(f, e)
    elif expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", measure_names())
def test_every_measure_names_formula_source_and_unit(golden, name):
    measure = golden[name]
    assert measure.formula and measure.unit and measure.title
    assert any(str(year) in measure.source for year in range(2015, 2027)), "a source has a year"


def test_a_difference_of_percentages_is_in_points(golden):
    assert golden["average_accuracy"].unit == "%"
    assert golden["average_forgetting"].unit == "points"
    assert golden["multi_task_delta"].unit == "%"


def test_signs_for_a_metric_where_lower_is_better():
    rmse = [[1.0, 5.0, 6.0], [2.0, 1.5, 6.0], [3.0, 1.0, 2.0]]
    matrix = matrix_from(rmse, metric="rmse", unit="m", higher=False)
    found = by_name(compute_measures(matrix, [7.0, 7.0, 7.0], single_task=[2.0, 1.0, 2.0]))
    # task 1 rose from its best, 1, to 3: 2 worse; task 2 fell from 1.5 to 1: 0.5 better
    assert found["forgetting_per_task"].value == [2.0, -0.5, None]
    assert found["average_forgetting"].value == pytest.approx(0.75)
    assert found["backward_transfer"].value == pytest.approx(-0.75)  # ((1 - 3) + (1.5 - 1)) / 2
    # task 1: 2 of 1, task 2: -0.5 of 1.5
    assert found["relative_forgetting_per_task"].value == [pytest.approx(200.0), pytest.approx(-100 / 3), None]
    assert found["average_relative_forgetting"].value == pytest.approx(250 / 3)
    assert found["forward_transfer"].value == pytest.approx(1.5)  # ((7 - 5) + (7 - 6)) / 2
    assert found["multi_task_delta"].value == pytest.approx(-50 / 3)  # (-50 % + 0 + 0) / 3
    assert found["average_accuracy"].value == pytest.approx(2.0)  # (3 + 1 + 2) / 3, in metres
    assert found["average_forgetting"].unit == "m"
    assert found["sample_weighted_accuracy"].value is None
    assert "not for rmse" in found["sample_weighted_accuracy"].reason


def test_a_value_from_before_a_task_was_learned_is_not_forgotten():
    values = [row.copy() for row in ACCURACY]
    values[0][1] = 99.5  # better by chance before task 2 was learned
    found = by_name(compute_measures(matrix_from(values)))
    assert found["forgetting_per_task"].value == [22.0, 10.0, None]


def test_the_three_forgettings_against_loops():
    """A task that ends at its best has lost less than nothing, nothing from the best, and in steps what it lost on the way."""
    generator = np.random.default_rng(5)
    values = generator.uniform(0, 100, (6, 6))
    values[-1, 1] = 100.0
    found = by_name(compute_measures(matrix_from(values.tolist(), [100] * 6)))
    last, steps = 5, []
    for t in range(1, 6):
        steps.append(sum(values[t - 1, j] - values[t, j] for j in range(t)) / t)
    before = [max(values[t, j] for t in range(j, last)) - values[last, j] for j in range(last)]
    ever = [max(values[t, j] for t in range(j, last + 1)) - values[last, j] for j in range(last)]
    assert found["average_forgetting"].value == pytest.approx(sum(before) / 5, abs=1e-9)
    assert found["forgetting_from_best"].value == pytest.approx(sum(ever) / 5, abs=1e-9)
    assert found["stepwise_forgetting"].value == pytest.approx(sum(steps) / 5, abs=1e-9)
    assert before[1] < 0 and ever[1] == 0


def test_curves_of_seen_and_old_classes_leave_gaps():
    found = by_name(
        compute_measures(matrix_from([[90.0, None, None], [None, 95.0, None], [70.0, 85.0, 99.0]], SAMPLES))
    )
    assert found["seen_accuracy_curve"].value == [90.0, None, pytest.approx(93.3)]
    assert found["old_accuracy_curve"].value == [None, pytest.approx(80.0)] and found["old_accuracy_curve"].reason
    assert found["stepwise_forgetting"].value is None
    assert by_name(compute_measures(matrix_from([[91.0]])))["old_accuracy_curve"].value is None


def test_measures_of_a_long_tail_are_of_runs_with_counts_alone():
    assert "few_shot_accuracy" not in by_name(compute_measures(matrix_from(ACCURACY)))
    found = by_name(compute_measures(matrix_from(ACCURACY), classes=CLASSES[:2]))
    assert found["many_shot_accuracy"].value == 80.0 and found["many_shot_accuracy"].unit == "%"
    assert found["few_shot_accuracy"].value is None
    assert found["few_shot_accuracy"].reason == "no class has under 20 training items"


def test_agrees_with_avalanche():
    from avalanche.evaluation.metrics.forgetting_bwt import BWT, Forgetting
    from avalanche.evaluation.metrics.forward_transfer import ForwardTransfer

    values = [row.copy() for row in ACCURACY]
    values[1][0] = 88.0  # Avalanche forgets from the first value, Chaudhry et al. from the best: here they are the same
    forgetting, backward, forward = Forgetting(), BWT(), ForwardTransfer()
    for j in range(3):
        for metric in (forgetting, backward):
            metric.update(j, values[j][j], initial=True)
            if j < 2:
                metric.update(j, values[2][j])
        forward.update(j, RANDOM_INIT[j], initial=True)
        if j > 0:
            forward.update(j, values[j - 1][j])
    found = by_name(compute_measures(matrix_from(values), RANDOM_INIT))
    assert found["forgetting_per_task"].value == [forgetting.result()[0], forgetting.result()[1], None]
    assert found["average_forgetting"].value == pytest.approx(mean(forgetting.result()))
    assert found["backward_transfer"].value == pytest.approx(mean(backward.result()))
    assert found["forward_transfer"].value == pytest.approx(mean(forward.result()))


def mean(result: dict[int, float]) -> float:
    assert len(result) == 2
    return sum(result.values()) / 2


def test_one_task_has_no_forgetting_and_no_transfer():
    found = by_name(compute_measures(matrix_from([[91.0]]), [50.0]))
    assert found["average_accuracy"].value == 91.0
    for name in ("average_forgetting", "backward_transfer", "forward_transfer", "forgetting_per_task"):
        assert found[name].value is None
        assert found[name].reason == "needs at least two tasks, the stream has one"


def test_missing_entries_leave_a_measure_undefined_and_only_that_one():
    without_middle_row = matrix_from([[90.0, 20.0, 10.0], [None, 95.0, 30.0], [70.0, 85.0, 99.0]])
    found = by_name(compute_measures(without_middle_row))
    assert found["average_forgetting"].value is None, "the best of task 1 may be in the missing row"
    assert "1 of 2 values are missing" in found["average_forgetting"].reason
    assert found["forgetting_per_task"].value == [None, 10.0, None]
    assert found["accuracy_curve"].value == pytest.approx([90.0, None, 254 / 3])
    assert found["average_incremental_accuracy"].value is None
    assert found["average_accuracy"].value == pytest.approx(254 / 3)
    assert found["backward_transfer"].value == pytest.approx(-15.0)
    assert found["forward_transfer"].value is None
    assert "untrained model was not evaluated" in found["forward_transfer"].reason
    assert "no single-task values" in found["multi_task_delta"].reason


def test_an_unfinished_stream_has_no_final_values():
    found = by_name(compute_measures(matrix_from([[90.0, 20.0], [None, None]]), [10.0, 10.0]))
    for name in ("average_accuracy", "average_forgetting", "backward_transfer", "sample_weighted_accuracy"):
        assert found[name].value is None
        assert "missing" in found[name].reason
    assert found["learning_curve"].value == [90.0, None]
    assert found["learning_curve"].reason
    assert found["forward_transfer"].value == pytest.approx(10.0)


def test_forward_transfer_needs_only_what_its_formula_names():
    lower_and_next = [[90.0, 20.0, None], [92.0, 95.0, 30.0], [70.0, 85.0, 99.0]]
    found = by_name(compute_measures(matrix_from(lower_and_next), [None, 10.0, 10.0]))
    assert found["forward_transfer"].value == pytest.approx(15.0)
    found = by_name(compute_measures(matrix_from(lower_and_next), [12.0, 10.0, None]))
    assert found["forward_transfer"].value is None


def test_tasks_of_different_metrics_are_not_averaged():
    matrix = AccuracyMatrix([TaskMetric("seg", "miou", "%"), TaskMetric("depth", "rmse", "m", False)])
    for (i, j), value in {(0, 0): 60.0, (0, 1): 2.0, (1, 0): 57.0, (1, 1): 0.5}.items():
        matrix.set(i, j, value, 10)
    found = by_name(compute_measures(matrix, [0.0, 4.0], single_task=[60.0, 0.4]))
    for name in ("average_accuracy", "average_forgetting", "backward_transfer", "forward_transfer", "accuracy_curve"):
        assert found[name].value is None
        assert "measured differently: miou (%), rmse (m)" in found[name].reason
    assert found["forgetting_per_task"].value == [3.0, None]
    assert found["forgetting_per_task"].unit == "per task"
    assert found["multi_task_delta"].value == pytest.approx(-15.0)  # (-5 % - 25 %) / 2


def test_delta_refuses_a_single_task_value_of_zero():
    found = by_name(compute_measures(matrix_from(ACCURACY), single_task=[0.0, 1.0, 1.0]))
    assert found["multi_task_delta"].value is None
    assert "above zero" in found["multi_task_delta"].reason


def test_references_have_one_value_per_task():
    with pytest.raises(MtpeftError, match="reference random_init has 2 values for 3 tasks"):
        compute_measures(matrix_from(ACCURACY), [1.0, 2.0])


def test_importing_is_light():
    code = (
        "import sys, mtpeft.evaluation, mtpeft.report;"
        "print([name for name in ('torch', 'plotly', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
