"""results.json: everything a run found, in plain JSON, the same bytes for the same recipe and seed.

Nothing in it depends on when, where or how often interrupted a run was: no time, date, path or host name, keys sorted,
no NaN (an entry that was not evaluated is null). Version 1, T tasks in the order of training:

    schema       1
    kind         "continual"
    name         name of the run, as tables show it
    seed         seed of the run
    recipe       the full resolved recipe: nested plain types, no file paths
    backbone     name (timm), fingerprint (SHA-256 of the frozen weights)
    input        size, mean, std, interpolation: what the images are turned into; of images also images: train and test (in
                 words), decoder; of clips also video: decoder, sampling,
                 frames, skipped, readers (what read how many files)
    scenario     "task_incremental", "class_incremental", "domain_incremental" or "dense_incremental"
    tasks        T x {name, metric, unit, higher_is_better, classes, train_samples, test_samples, validation_samples?}
    matrix       values (T x T, R[i][j] = metric on task j after training on task i), samples (T x T)
    reference    random_init (T: metric of the untrained model), single_task (T, optional: tasks trained alone)
    baselines    linear_probe and nearest_class_mean on the frozen backbone, each {values (T: metric at the end of the
                 stream), curve (T, optional: average over the tasks seen so far)}; a baseline not measured is left out
    confusion    optional, per task with class labels {task, classes, rows, counts}: test samples by true (row) and
                 predicted class (column) at the end of the stream
    pictures     optional, the folder beside this file with strips of test clips
    continued    optional, changes of the recipe after the run had begun: {step, key, old, new}
    measures     list of {name, title, value, unit, formula, source, reason}; those of HEADLINE at least
    parameters   method, norm_bias, head, buffers, backbone, trainable_per_task, rule
    memory       optional, bytes in training: backbone, optimizer, precision, per_task {name: {trained, method, head,
                 gradients, optimizer, activations (of one more image or clip), fixed}}, rule
    feature_cache  optional, what the feature cache holds: features, row_bytes, images
    frozen       fingerprint_before, fingerprint_after, unchanged
    curves       train_loss: list of {task, step (of the stream, counted from 1), loss}
    environment  python, torch, timm, mtpeft, threads, device

SCHEMA.md beside this file describes each key. Results of kind "joint" have keys of their own: SCHEMA_JOINT.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtpeft.errors import CheckpointError, DataError, MtpeftError
from mtpeft.evaluation.matrix import AccuracyMatrix
from mtpeft.evaluation.schema import RESULTS, check
from mtpeft.evaluation.schema_joint import validate_joint
from mtpeft.files import write_atomic

SCHEMA_VERSION = 1
HEADLINE = (
    "average_accuracy",
    "average_forgetting",
    "backward_transfer",
    "forward_transfer",
    "sample_weighted_accuracy",
)


def validate(results: Mapping[str, Any]) -> None:
    """Raise `DataError` with one line that names the first key that is missing, unknown or does not fit the others."""
    if isinstance(results, Mapping) and results.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
        found = results["schema"]
        raise DataError(f"schema must be {SCHEMA_VERSION}, got {found!r}: written by another version of mtpeft")
    if isinstance(results, Mapping) and results.get("kind") == "joint":
        validate_joint(results)
        return
    check(results, RESULTS, "")
    names = [task["name"] for task in results["tasks"]]
    matrix = matrix_of(results)
    _check_lengths(results, len(matrix))
    per_task = {"parameters.trainable_per_task": results["parameters"]["trainable_per_task"]}
    if "memory" in results:
        per_task["memory.per_task"] = results["memory"]["per_task"]
    for place, found in per_task.items():
        for task in found:
            if task not in names:
                raise DataError(f"{place} names {task!r}, which is not one of the tasks {names}")
    frozen = results["frozen"]
    if frozen["unchanged"] != (frozen["fingerprint_before"] == frozen["fingerprint_after"]):
        raise DataError("frozen.unchanged contradicts the two fingerprints beside it")
    missing = [name for name in HEADLINE if name not in measures_of(results)]
    if missing:
        raise DataError(f"measures lack {missing[0]!r}; write what mtpeft.evaluation.compute_measures returns")
    for index, measure in enumerate(results["measures"]):
        if measure["value"] is None and not measure["reason"]:
            raise DataError(f"measures[{index}].reason is empty although {measure['name']!r} has no value")
    _check_curve(results["curves"]["train_loss"], names)
    _check_confusion(results, matrix)


def _check_lengths(results: Mapping[str, Any], total: int) -> None:
    per_task = {"reference": results["reference"]}
    per_task.update({f"baselines.{name}": entry for name, entry in results["baselines"].items()})
    for place, entries in per_task.items():
        for key, values in entries.items():
            if len(values) != total:
                raise DataError(f"{place}.{key} has {len(values)} entries for {total} tasks")


def _check_curve(points: list[Mapping[str, Any]], names: list[str]) -> None:
    last = 0
    for index, point in enumerate(points):
        place = f"curves.train_loss[{index}]"
        if point["task"] not in names:
            raise DataError(f"{place}.task is {point['task']!r}, which is not one of the tasks {names}")
        if point["step"] <= last:
            raise DataError(f"{place}.step is {point['step']} after {last}; steps count up over the whole stream")
        last = point["step"]


def _check_confusion(results: Mapping[str, Any], matrix: AccuracyMatrix) -> None:
    seen: set[str] = set()
    for index, entry in enumerate(results.get("confusion", ())):
        place, classes, rows, counts = f"confusion[{index}]", len(entry["classes"]), entry["rows"], entry["counts"]
        if entry["task"] not in matrix.names or entry["task"] in seen:
            what = "given twice" if entry["task"] in seen else f"not one of the tasks {matrix.names}"
            raise DataError(f"{place}.task is {entry['task']!r}, which is {what}")
        seen.add(entry["task"])
        if len(set(rows)) < len(rows) or any(row >= classes for row in rows):
            raise DataError(f"{place}.rows must be different places in the {classes} classes beside it, got {rows}")
        if len(counts) != len(rows) or any(len(row) != classes for row in counts):
            raise DataError(f"{place}.counts must be {len(rows)} rows of {classes} counts, as rows and classes say")
        total = sum(map(sum, counts))
        samples = int(matrix.samples[-1, matrix.index(entry["task"])])
        if total != samples:
            raise DataError(f"{place}.counts are of {total} samples, but matrix.samples of that task says {samples}")


def matrix_of(results: Mapping[str, Any]) -> AccuracyMatrix:
    """The accuracy matrix of a run. Raises `DataError` when it does not have one row and column per task."""
    return AccuracyMatrix.from_dict({"tasks": results["tasks"], **results["matrix"]})


def measures_of(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The measures of a run by name."""
    return {measure["name"]: measure for measure in results["measures"]}


def to_json(results: Mapping[str, Any]) -> str:
    """The text of results.json: sorted keys, so that equal results are equal bytes. Raises like `validate`."""
    validate(results)
    return json.dumps(results, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Validate and write atomically. Raises `MtpeftError`; an earlier file is then untouched."""
    write_atomic(path, to_json(results))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and validate. Raises `CheckpointError` for a missing or damaged file and for one that breaks the schema."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path}; it is written when a run has finished") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    try:
        results = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged, not JSON: {error}; run the recipe again") from error
    try:
        validate(results)
    except MtpeftError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return results


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not allowed")
