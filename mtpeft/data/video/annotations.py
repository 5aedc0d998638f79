"""The annotation files of published data sets, read into a `Listing`.

Each function takes a split ("train", "val" or "test") and the folder `root`; file names can be given where copies differ.
All raise `DataError` that names a missing or malformed annotation file; whether the videos are there is checked later.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtpeft.data.video.records import Listing, VideoRecord
from mtpeft.errors import ConfigError, DataError

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")


def kinetics(root: str, split: str, annotations: str | None = None, videos: str | None = None) -> Listing:
    """Kinetics-400/600/700: a csv with columns label, youtube_id, time_start, time_end, split.

    `annotations` is the csv, by default {split}.csv or annotations/{split}.csv. `videos` is the folder of the clips, by
    default {split} or videos; in it they lie flat or in a folder per class, and are named id_start_end with six digits.
    Classes are the labels of the training csv (of the given file where there is none) in alphabetical order.
    """
    base = Path(root).expanduser()
    defaults = [f"{split}.csv", f"annotations/{split}.csv"]
    path = _first(base, [annotations] if annotations else defaults, "Kinetics")
    rows = _kinetics_rows(path)
    reference = path.with_name(path.name.replace(split, "train"))
    labels = {row["label"] for row in (rows if not reference.is_file() else _kinetics_rows(reference))}
    classes = sorted(labels)
    folder = base / (videos or (split if (base / split).is_dir() else "videos"))
    records = []
    for row in rows:
        stem = f"{row['youtube_id']}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
        spaced, joined = row["label"], row["label"].replace(" ", "_")
        file = _existing(folder, [f"{spaced}/{stem}", f"{joined}/{stem}", stem])
        records.append(_record(base, file, _label(classes, spaced, str(path))))
    return Listing(tuple(records), tuple(classes))


def something_v2(
    root: str,
    split: str,
    annotations: str | None = None,
    labels: str | None = None,
    videos: str = "20bn-something-something-v2",
) -> Listing:
    """Something-Something v2: a json list of {id, template} and a json of {template: index as text}.

    `annotations` and `labels` are by default [something-something-v2-|labels/]{train, validation}.json and labels.json, as
    published. Classes tell left from right: no mirror images.
    """
    base = Path(root).expanduser()
    part = "validation" if split == "val" else split
    path = _first(base, [annotations] if annotations else _something(part), "Something-Something v2")
    label_path = _first(base, [labels] if labels else _something("labels"), "Something-Something v2")
    table = {str(name): int(number) for name, number in _json(label_path, dict).items()}
    classes = sorted(table, key=table.__getitem__)
    if sorted(table.values()) != list(range(len(table))):
        raise DataError(f"{label_path}: the indices of the {len(table)} labels are not 0 to {len(table) - 1}")
    records = []
    for entry in _json(path, list):
        if "id" not in entry or "template" not in entry:
            raise DataError(f"{path}: an entry without 'id' or 'template': {entry}")
        name = str(entry["template"]).replace("[", "").replace("]", "")
        file = _existing(base / videos, [str(entry["id"])], (".webm", ".mp4"))
        records.append(_record(base, file, _label(classes, name, str(path))))
    return Listing(tuple(records), tuple(classes), flip=False)


def hmdb51(root: str, split: str, fold: int = 1, splits: str = "splits", videos: str = "videos") -> Listing:
    """HMDB51: a file {class}_test_split{fold}.txt per class with lines "video.avi 1" (1 training, 2 testing, 0 unused)."""
    _check_fold(fold)
    base = Path(root).expanduser()
    wanted = "1" if split == "train" else "2"
    ending = f"_test_split{fold}.txt"
    files = sorted((base / splits).glob(f"*{ending}"))
    if not files:
        raise DataError(f"HMDB51: no file *{ending} in {base / splits}; is data.root ({base}) the right folder?")
    classes = [file.name[: -len(ending)] for file in files]
    records = []
    for label, file in enumerate(files):
        for number, line in _lines(file):
            words = line.rsplit(maxsplit=1)
            if len(words) != 2 or words[1] not in ("0", "1", "2"):
                raise DataError(f"{file}, line {number}: {line!r}, expected a file name and 0, 1 or 2")
            if words[1] == wanted:
                stem = Path(words[0]).stem
                path = _existing(base / videos, [f"{classes[label]}/{stem}", stem], (".avi", *SUFFIXES))
                records.append(_record(base, path, label))
    return Listing(tuple(records), tuple(classes))


def ucf101(root: str, split: str, fold: int = 1, splits: str = "ucfTrainTestlist", videos: str = "UCF-101") -> Listing:
    """UCF101: classInd.txt ("1 ApplyEyeMakeup") and trainlist0{fold}.txt or testlist0{fold}.txt ("Class/v_....avi 1")."""
    _check_fold(fold)
    base = Path(root).expanduser()
    folder = base / splits
    index = _first(folder, ["classInd.txt"], "UCF101")
    numbered = {int(words[0]): words[1] for words in (line.split() for _, line in _lines(index))}
    classes = [numbered[number] for number in sorted(numbered)]
    path = _first(folder, [f"{'train' if split == 'train' else 'test'}list{fold:02d}.txt"], "UCF101")
    records = []
    for _, line in _lines(path):
        name = line.split()[0]
        stem = name.removesuffix(Path(name).suffix)
        file = _existing(base / videos, [stem, Path(stem).name], (".avi", *SUFFIXES))
        records.append(_record(base, file, _label(classes, name.split("/")[0], str(path))))
    return Listing(tuple(records), tuple(classes))


def diving48(root: str, split: str, version: str = "V2", videos: str = "rgb") -> Listing:
    """Diving-48: Diving48_V2_{train, test}.json, a list of {vid_name, label}, and Diving48_vocab.json, whose place is the
    label. Twists go left or right but no class says which: mirror images are allowed."""
    base = Path(root).expanduser()
    part = "train" if split == "train" else "test"
    path = _first(base, [f"Diving48_{version}_{part}.json"], "Diving-48")
    vocabulary = _json(_first(base, ["Diving48_vocab.json"], "Diving-48"), list)
    classes = [" ".join(entry) if isinstance(entry, list) else str(entry) for entry in vocabulary]
    records = []
    for entry in _json(path, list):
        label = entry.get("label")
        if "vid_name" not in entry or not isinstance(label, int) or not 0 <= label < len(classes):
            raise DataError(f"{path}: expected 'vid_name' and a label from 0 to {len(classes) - 1}, got {entry}")
        records.append(_record(base, _existing(base / videos, [str(entry["vid_name"])]), label))
    return Listing(tuple(records), tuple(classes))


def _something(part: str) -> list[str]:
    return [f"something-something-v2-{part}.json", f"labels/{part}.json", f"{part}.json"]


def _kinetics_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    needed = ("label", "youtube_id", "time_start", "time_end")
    absent = [key for key in needed if not rows or key not in rows[0]]
    if absent:
        raise DataError(f"{path}: column {absent[0]!r} is missing; expected {', '.join(needed)}")
    for number, row in enumerate(rows, start=2):
        if not all(str(row[key] or "").replace(".", "", 1).isdigit() for key in ("time_start", "time_end")):
            raise DataError(f"{path}, line {number}: time_start or time_end is no number of seconds")
    return rows


def _first(folder: Path, names: Sequence[str], dataset: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{dataset}: {folder / names[0]} is missing; is data.root the right folder?")


def _existing(folder: Path, stems: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> Path:
    """The first candidate that exists; the first of all where none does, to be named as missing."""
    candidates = [folder / f"{stem}{suffix}" for stem in stems for suffix in suffixes]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: no valid JSON: {error}") from error
    if not isinstance(content, kind):
        raise DataError(f"{path}: expected a JSON {'object' if kind is dict else 'list'}")
    return content


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return ((number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip())


def _label(classes: list[str], name: str, where: str) -> int:
    if name not in classes:
        raise DataError(f"{where}: class {name!r} is none of the {len(classes)} classes")
    return classes.index(name)


def _record(root: Path, path: Path, label: int) -> VideoRecord:
    return VideoRecord(str(path), label, str(path.relative_to(root)) if path.is_relative_to(root) else str(path))


def _check_fold(fold: int) -> None:
    if fold not in (1, 2, 3):
        raise ConfigError(f"data.fold is {fold!r}, expected 1, 2 or 3")
