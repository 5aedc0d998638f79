"""`mtpeft check-data`: every label of a task is read, counted and checked before anything is trained on it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from mtpeft.console import open_console
from mtpeft.data.dense.labels import IGNORED, layout
from mtpeft.data.dense.registry import SPLITS
from mtpeft.data.dense.sample import DenseDataset
from mtpeft.data.dense.task_files import Task, load_task
from mtpeft.dense.kinds import Kind
from mtpeft.errors import DataError

SHOWN = 10
"""Messages of one sort that are printed; the rest is counted."""
DEPTH_BINS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
UNIT_BINS = tuple(np.linspace(0, 1, 6).round(1).tolist())
DIRECTIONS = ("right", "left", "down", "up", "towards the camera", "away from it")


@dataclass
class Findings:
    """What was found in one split: samples, labels, pixels per row of the histogram, and messages."""

    split: str
    rows: tuple[str, ...]
    counts: np.ndarray
    samples: int = 0
    labels: int = 0
    invalid: int = 0
    empty: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def absent(self) -> list[str]:
        """The rows without a pixel."""
        return [row for row, count in zip(self.rows, self.counts, strict=True) if not count]


def check_task(task: Task, split: str) -> Findings:
    """Read all labels of a split. Wrong labels and files are collected, not raised."""
    dataset = task.build(split, tasks=[task.label], missing="skip")
    info = dataset.tasks[task.label]
    kind = task.build_kind(info)
    rows = histogram_rows(task.kind, info.classes, kind.channels)
    found = Findings(split, rows, np.zeros(len(rows), dtype=np.int64), samples=len(dataset))
    found.missing = [str(path) for path in getattr(dataset, "missing_files", {}).get(task.label, ())]
    for index in tqdm(range(len(dataset)), desc=f"{task.name} {split}", disable=None, leave=False):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                _check_sample(found, task, kind, dataset, index)
            except DataError as error:
                found.errors.append(str(error))
        found.warnings += [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    return found


def histogram_rows(kind: str, classes: Sequence[str], channels: int) -> tuple[str, ...]:
    """Names of the histogram's rows: classes, ranges of values, or directions of normals."""
    if kind in ("semseg", "parts"):
        names = classes or [str(number) for number in range(channels)]
        return tuple(f"{number} {name}" for number, name in enumerate(names))
    if kind in ("saliency", "edges"):
        return ("0", "1")
    if kind == "normals":
        return DIRECTIONS
    bins, unit = (DEPTH_BINS, " m") if kind == "depth" else (UNIT_BINS, "")
    ranges = [f"{low:g} to {high:g}{unit}" for low, high in pairwise(bins)]
    return (*ranges, f"from {bins[-1]:g}{unit}")


def histogram(kind: str, label: np.ndarray, rows: int) -> np.ndarray:
    """Valid pixels of a label in each row; its values are within range."""
    if kind in ("semseg", "parts", "saliency", "edges"):
        return np.bincount(label[label != IGNORED].ravel().astype(np.int64), minlength=rows)
    if kind == "normals":
        vectors = label[np.any(label != 0, axis=-1)]
        axis = np.abs(vectors).argmax(axis=-1)
        negative = np.take_along_axis(vectors, axis[:, None], axis=-1)[:, 0] < 0
        return np.bincount(2 * axis + negative, minlength=rows)
    values = label[np.isfinite(label) & ((label > 0) if kind == "depth" else (label >= 0))]
    bins = [*(DEPTH_BINS if kind == "depth" else UNIT_BINS), np.inf]
    return np.histogram(values, bins)[0]


def main(name: str, overrides: Sequence[str]) -> int:
    """Check both splits and print what was found. Raises `DataError` (exit code 2) when anything is wrong."""
    task = load_task(name, overrides)
    console = open_console()
    problems: list[str] = []
    for split in SPLITS:
        found = check_task(task, split)
        _print(console, task, found)
        problems += found.errors
        if found.missing and task.data.get("missing") != "skip":
            problems.append(
                f"{len(found.missing)} of {found.samples} label files of the {split} split are missing, first "
                f"{found.missing[0]}; data.missing='skip' trains without them"
            )
    if problems:
        more = f"; and {len(problems) - 1} more above" if len(problems) > 1 else ""
        raise DataError(f"task {task.name}: {problems[0]}{more}")
    console.print(f"{task.name}: nothing wrong")
    return 0


def _check_sample(found: Findings, task: Task, kind: Kind, dataset: DenseDataset, index: int) -> None:
    sample = dataset[index]
    label = sample.labels.get(task.label)
    if label is None:
        return
    found.labels += 1
    sample.check_sizes()
    where = _where(dataset, task.label, index, sample.name)
    kind.check(label, where)
    valid = int(kind.valid(layout(task.kind, task.label).tensor(label)[None]).sum())
    found.invalid += int(np.prod(label.shape[:2])) - valid
    if not valid:
        found.empty.append(where)
    found.counts += histogram(task.kind, label, len(found.rows))


def _where(dataset: Any, task: str, index: int, name: str) -> str:
    """The label's file where there is one."""
    path: Path | None = dataset.label_file(task, index) if hasattr(dataset, "label_file") else None
    return str(path or name)


def _print(console: Console, task: Task, found: Findings) -> None:
    total = max(int(found.counts.sum()), 1)
    files = f"{len(found.missing)} label files missing"
    console.print(
        f"{task.name}, {found.split}: {found.samples} images, {found.labels} labels, {files}", highlight=False
    )
    table = Table()
    table.add_column("value")
    table.add_column("pixels", justify="right")
    table.add_column("share", justify="right")
    for row, count in zip(found.rows, found.counts.tolist(), strict=True):
        table.add_row(row, f"{count:,}", f"{100 * count / total:.2f} %")
    table.add_row("ignored or invalid", f"{found.invalid:,}", "")
    console.print(table)
    if task.kind in ("semseg", "parts", "saliency", "edges") and found.absent:
        console.print(f"absent classes: {', '.join(found.absent)}", markup=False, highlight=False)
    sorts = (
        ("labels without a valid pixel", found.empty),
        ("missing label files", found.missing),
        ("warnings", found.warnings),
        ("errors", found.errors),
    )
    for heading, messages in sorts:
        if messages:
            more = f", the first {SHOWN}" if len(messages) > SHOWN else ""
            lines = "\n".join(f"  {message}" for message in messages[:SHOWN])
            console.print(f"{heading}: {len(messages)}{more}\n{lines}", markup=False, highlight=False, soft_wrap=True)
