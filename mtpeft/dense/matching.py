"""Precision and recall of edges by one-to-one matching of edge pixels within a maximum distance, in numpy and scipy."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow
from scipy.spatial import cKDTree

from mtpeft.dense.thinning import suppress, thin


def match_counts(
    strength: np.ndarray, truth: np.ndarray, valid: np.ndarray, thresholds: np.ndarray, max_distance: float
) -> tuple[np.ndarray, int]:
    """Counts of one image: (T, 2) matched and predicted edge pixels per threshold, and the number of true ones.

    `strength` (H, W) in 0 to 1, `truth` and `valid` (H, W) bool, `max_distance` as a fraction of the image's diagonal.
    The strength is suppressed where it is not maximal across its edge; at each threshold the pixels at or above it are
    thinned to lines, as is the truth. Predicted pixels outside `valid` do not count. A true pixel and a predicted one can
    be matched when they are no further apart than the maximum distance; the matching has the largest possible number of
    pairs. (Martin et al. 2004 minimise the sum of distances, in which an unmatched pixel costs 100 maximum distances: the
    same number of pairs, unless one more would shift a chain of hundreds.)
    """
    reach = max_distance * float(np.hypot(*truth.shape))
    peaks = suppress(strength)
    lines = thin(peaks >= thresholds[:, None, None]) & valid
    true_points = np.argwhere(thin(truth & valid))
    counts = np.zeros((len(thresholds), 2), dtype=np.int64)
    counts[:, 1] = lines.sum(axis=(1, 2))
    points = np.argwhere(lines.any(axis=0))
    if not len(points) or not len(true_points):
        return counts, len(true_points)
    pairs = cKDTree(points).sparse_distance_matrix(cKDTree(true_points), reach + 1e-9, output_type="coo_matrix")
    for number, line in enumerate(lines):
        kept = line[points[:, 0], points[:, 1]][pairs.row]
        counts[number, 0] = most_pairs(pairs.row[kept], pairs.col[kept], len(points), len(true_points))
    return counts, len(true_points)


def most_pairs(left: np.ndarray, right: np.ndarray, lefts: int, rights: int) -> int:
    """The size of the largest one-to-one matching among candidate pairs (left[i], right[i]) of numbered points.

    By maximum flow (Dinic). scipy's bipartite matching took minutes where many pairs of a large image compete; this takes
    milliseconds.
    """
    if not len(left):
        return 0
    source, sink = lefts + rights, lefts + rights + 1
    tails = np.concatenate([np.full(lefts, source), left, np.arange(lefts, source)])
    heads = np.concatenate([np.arange(lefts), lefts + right, np.full(rights, sink)])
    capacities = csr_matrix((np.ones(len(tails), dtype=np.int32), (tails, heads)), shape=(sink + 1, sink + 1))
    return int(maximum_flow(capacities, source, sink, method="dinic").flow_value)


def scores(matched: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F = 2 P R / (P + R); each is 0 where its denominator is."""
    precision = matched / np.maximum(predicted, 1)
    recall = matched / np.maximum(true, 1)
    return precision, recall, 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Mean over recalls 0, 0.01, ..., 1 of the best precision of a threshold that reaches the recall; 0 beyond them."""
    reaches = recall >= np.linspace(0, 1, 101)[:, None] - 1e-12
    return float(np.where(reaches, precision, 0.0).max(axis=1).mean())
