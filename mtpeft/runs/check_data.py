"""`mtpeft check-data`: every label of a task is read, counted and checked before anything is trained on it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console

from mtpeft.bars import bar
from mtpeft.data.dense.registry import SPLITS
from mtpeft.data.dense.sample import DenseDataset, label_source
from mtpeft.dense.kinds import KINDS, Kind
from mtpeft.errors import DataError
from mtpeft.printing import print_table, print_text
from mtpeft.runs.check_images import check_stream, count_file, print_files, print_messages, stream_recipe
from mtpeft.runs.console import open_console
from mtpeft.runs.task_files import Task, load_task


@dataclass
class Findings:
    """What was found in one split: samples, labels, pixels per row of the histogram, types of files, and messages."""

    split: str
    rows: tuple[str, ...]
    counts: np.ndarray
    samples: int = 0
    labels: int = 0
    invalid: int = 0
    files: Counter[str] = field(default_factory=Counter)
    constant_images: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
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
    kind = info.build_kind(task.kind, task.options, task.metric)
    rows = kind.histogram_rows(info.classes)
    found = Findings(split, rows, np.zeros(len(rows), dtype=np.int64), samples=len(dataset))
    found.missing = [str(path) for path in getattr(dataset, "missing_files", {}).get(task.label, ())]
    for index in bar(range(len(dataset)), f"reading {task.name}, {split}", "label"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                _check_sample(found, task, kind, dataset, index)
            except DataError as error:
                found.errors.append(str(error))
        found.warnings += [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    return found


def main(name: str, overrides: Sequence[str]) -> int:
    """Check both splits and print what was found. Raises `DataError` (exit code 2) when anything is wrong.

    `name` is that of a task, or of a recipe whose stream has images (`mtpeft.runs.check_images`).
    """
    recipe = stream_recipe(name, overrides)
    if recipe is not None:
        return check_stream(recipe)
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
    count_file(found.files, "images", sample.name)
    if (sample.image == sample.image[0, 0]).all():
        found.constant_images.append(sample.name)
    label = sample.labels.get(task.label)
    if label is None:
        return
    found.labels += 1
    sample.check_sizes()
    where = str(label_source(dataset, task.label, index) or sample.name)
    count_file(found.files, "labels", where)
    kind.check(label, where)
    if (label == label[0, 0]).all():
        found.constant.append(f"{where}: {label[0, 0]}")
    valid = int(kind.valid_pixels(label).sum())
    found.invalid += int(np.prod(label.shape[:2])) - valid
    if not valid:
        found.empty.append(where)
    found.counts += kind.histogram(label, len(found.rows))


def _print(console: Console, task: Task, found: Findings) -> None:
    total = max(int(found.counts.sum()), 1)
    files = f"{len(found.missing)} label files missing"
    console.print(
        f"{task.name}, {found.split}: {found.samples} images, {found.labels} labels, {files}", highlight=False
    )
    print_files(console, found.files)
    counts = zip(found.rows, found.counts.tolist(), strict=True)
    rows = [[row, f"{count:,}", f"{100 * count / total:.2f} %"] for row, count in counts]
    rows.append(["ignored or invalid", f"{found.invalid:,}", ""])
    print_table(console, ["value", "pixels", "share"], rows, transposable=False)
    if not KINDS.get(task.kind).continuous and found.absent:
        print_text(console, f"absent classes: {', '.join(found.absent)}")
    sorts = (
        ("images of one colour", found.constant_images),
        ("labels of one value", found.constant),
        ("labels without a valid pixel", found.empty),
        ("missing label files", found.missing),
        ("warnings", found.warnings),
        ("errors", found.errors),
    )
    print_messages(console, sorts)
