"""The edge measure on toy edges whose counts are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mtpeft.dense.kinds import build_kind
from mtpeft.dense.matching import average_precision, match_counts
from mtpeft.dense.thinning import suppress, thin

SIZE = 40
#: pixels that may lie between matches; the diagonal of the toys is 56.6 pixels
REACH = 3.0


def line(column: int, start: int = 5, stop: int = 35) -> np.ndarray:
    edges = np.zeros((SIZE, SIZE), dtype=bool)
    edges[start:stop, column] = True
    return edges


def measured(prediction: np.ndarray, truth: np.ndarray, ignored: np.ndarray | None = None, **options) -> dict:
    """Values for a prediction given as probabilities."""
    reach = options.pop("reach", REACH) / math.hypot(SIZE, SIZE)
    measure = build_kind("edges", max_distance=reach, **options).measure()
    label = torch.from_numpy(truth.astype(np.int64))
    if ignored is not None:
        label[torch.from_numpy(ignored)] = 255
    output = torch.logit(torch.from_numpy(prediction.astype(np.float32)).clamp(1e-4, 1 - 1e-4))
    measure.update(output[None, None], label[None])
    return measure.compute()


def test_perfect():
    square = np.zeros((SIZE, SIZE), dtype=bool)
    square[8:30, 10:32] = True
    square[9:29, 11:31] = False
    for truth in (line(12), square, np.eye(SIZE, dtype=bool)):
        assert measured(truth, truth) == pytest.approx({"odsF": 100, "oisF": 100, "AP": 100})


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_shifted_within_the_distance(shift):
    assert measured(line(12 + shift), line(12))["odsF"] == pytest.approx(100)


def test_shifted_beyond_the_distance():
    found = measured(line(16), line(12))
    assert found == pytest.approx({"odsF": 0, "oisF": 0, "AP": 0}, abs=1e-9)


def test_published_distances_on_an_image_of_pascal_size():
    """500 x 375 pixels: a diagonal of 625, so 4.6875 pixels at 0.0075 and 6.875 at 0.011."""
    truth = np.zeros((375, 500), dtype=bool)
    truth[100:300, 200] = True
    valid, limits = np.ones_like(truth), np.array([0.5])
    for fraction, reach in ((0.0075, 4), (0.011, 6)):
        near, far = (np.roll(truth, shift, axis=1).astype(float) for shift in (reach, reach + 1))
        assert match_counts(near, truth, valid, limits, fraction)[0].tolist() == [[200, 200]]
        assert match_counts(far, truth, valid, limits, fraction)[0].tolist() == [[0, 200]]


def test_half_of_the_edges_missing():
    truth = line(10) | line(30)
    found = measured(line(10), truth)  # precision 1, recall 1/2
    assert found["odsF"] == pytest.approx(100 * 2 / 3)
    assert found["AP"] == pytest.approx(100 * 51 / 101)  # recalls 0 to 0.5 of 101


def test_false_positives():
    found = measured(line(10) | line(20) | line(30), line(10))  # precision 1/3, recall 1
    assert found["odsF"] == pytest.approx(50)


def test_matches_are_one_to_one():
    # five predicted lines all within reach of one true line
    prediction = line(8) | line(10) | line(12) | line(14)
    found = measured(prediction, line(11))
    assert found["odsF"] == pytest.approx(100 * 2 * 0.25 / 1.25)


def test_thick_and_soft_predictions_are_thinned():
    columns = np.arange(SIZE)
    soft = 0.9 * np.exp(-((columns - 12) ** 2) / 8.0) * np.ones((SIZE, 1))
    truth = line(12, 0, SIZE)
    assert measured(soft, truth)["odsF"] == pytest.approx(100)
    thick = line(11, 0, SIZE) | truth | line(13, 0, SIZE)
    assert measured(thick, truth)["odsF"] > 95  # a line loses pixels at its ends
    assert measured(thick, thick)["odsF"] == pytest.approx(100)


def test_thresholds():
    """A weak true edge and a strong false one: no threshold has only the true one."""
    prediction = 0.3 * line(10) + 0.8 * line(30)
    assert measured(prediction, line(10))["odsF"] == pytest.approx(100 * 2 / 3)
    prediction = 0.8 * line(10) + 0.3 * line(30)
    assert measured(prediction, line(10))["odsF"] == pytest.approx(100)
    assert measured(prediction, line(10), thresholds=3)["odsF"] == pytest.approx(100)
    assert measured(prediction, line(10), thresholds=1)["odsF"] == pytest.approx(100)


def test_each_image_at_its_best_threshold():
    measure = build_kind("edges", max_distance=0.05).measure()
    truth = line(10)
    label = torch.from_numpy(truth.astype(np.int64))[None]
    for strong, weak in ((0.8, 0.6), (0.4, 0.2)):  # the first image needs a threshold above 0.6, the second below 0.4
        prediction = torch.from_numpy(np.clip(strong * truth + weak * line(30), 1e-4, 1)).float()
        measure.update(torch.logit(prediction)[None, None], label)
    found = measure.compute()
    assert found["oisF"] == pytest.approx(100)
    assert found["odsF"] == pytest.approx(100 * 2 / 2.5)  # all of both and one false line, or one of both: 4/5 or 2/3


def test_images_without_edges_count_as_false_only():
    nothing = np.zeros((SIZE, SIZE), dtype=bool)
    assert set(measured(0.5 * line(10), nothing).values()) == {None}
    kind = build_kind("edges", max_distance=0.05)
    measure = kind.measure()
    for truth in (line(10), nothing):
        measure.update(torch.from_numpy(np.where(line(10), 4.0, -4.0))[None, None], torch.from_numpy(truth * 1)[None])
    found = measure.compute()
    assert found["odsF"] == pytest.approx(100 * 2 / 3) and found["oisF"] == pytest.approx(100)


def test_ignored_pixels():
    ignored = np.zeros((SIZE, SIZE), dtype=bool)
    ignored[:, 25:] = True
    assert measured(line(10) | line(30), line(10), ignored)["odsF"] == pytest.approx(100)
    assert measured(line(10), line(10) | line(30), ignored)["odsF"] == pytest.approx(100)


def test_matching_is_as_large_as_brute_force_finds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        prediction, truth = (rng.random((5, 5)) < 0.2 for _ in range(2))
        fraction = 1.5 / math.hypot(5, 5)
        counts, _ = match_counts(prediction * 1.0, truth, np.ones_like(truth), np.array([0.5]), fraction)
        a, b = np.argwhere(thin(suppress(prediction * 1.0) > 0)), np.argwhere(thin(truth))
        near = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1)) <= 1.5
        assert counts[0, 0] == largest(near)


def largest(near: np.ndarray) -> int:
    """The size of the largest one-to-one matching, by trying every choice."""
    if not near.size:
        return 0
    small = near if near.shape[0] <= near.shape[1] else near.T
    columns = range(small.shape[1])
    tries = itertools.permutations(columns, small.shape[0])
    return max(int(small[np.arange(small.shape[0]), list(chosen)].sum()) for chosen in itertools.islice(tries, 20_000))


def test_thinning():
    block = np.zeros((9, 12), dtype=bool)
    block[3:6, 2:10] = True
    lines = thin(block)
    assert lines.any(axis=0).sum() >= 5 and lines.sum(axis=0).max() == 1 and not (lines & ~block).any()
    dot = np.zeros((6, 6), dtype=bool)
    dot[2:4, 2:4] = True
    assert thin(dot).sum() == 1
    for already in (line(10), np.eye(8, dtype=bool)):
        assert np.array_equal(thin(already), already)
    ring = np.zeros((12, 12), dtype=bool)
    ring[2:10, 2:10] = True
    ring[5:7, 5:7] = False
    assert thin(ring).sum() > 12  # a ring stays a ring
    stack = np.stack([dot, np.eye(6, dtype=bool)])
    assert np.array_equal(thin(stack), np.stack([thin(dot), thin(np.eye(6, dtype=bool))]))


def test_suppression_keeps_the_ridge_of_slanted_edges():
    rows, columns = np.indices((30, 30))
    for angle in (0, 20, 45, 70, 90, 135):
        away = (columns - 15) * math.cos(math.radians(angle)) + (rows - 15) * math.sin(math.radians(angle))
        kept = suppress(np.exp(-(away**2) / 6)) > 0.1
        inner = np.hypot(rows - 15, columns - 15) < 12
        assert np.abs(away[kept & inner]).max() < 0.8
        assert (kept & inner).sum() >= 16  # the 24 pixels of the line, in steps of up to 1.41


def test_average_precision():
    precision, recall = np.array([0.5, 1.0, 0.2]), np.array([1.0, 0.5, 0.8])
    assert average_precision(precision, recall) == pytest.approx((51 * 1.0 + 50 * 0.5) / 101)
