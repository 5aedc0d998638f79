"""Lists of pictures: CSV and JSON lines, columns by name, and everything that can be wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trees

from mtpeft.data.labelled import build_labelled_parts
from mtpeft.data.sources import build_dataset
from mtpeft.errors import ConfigError, DataError, MtpeftError

CONFIG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
ROWS = [
    ("a/0.png", "cat", "train"),
    ("a/1.png", "dog", "train"),
    ("a/2.png", "dog", "test"),
    ("a/3.png", "cat", "test"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        trees.picture(tmp_path / "a" / f"{number}.png", number)
    return tmp_path


def csv_file(folder: Path, rows: Any = ROWS, header: str = "path,label,split", name: str = "list.csv") -> str:
    (folder / name).write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(folder / name)


def names(data: dict[str, Any], train: bool) -> list[tuple[str, str]]:
    found = build_dataset({"type": "ListFile", **data}, train)
    return [(Path(path).name, found.classes[label]) for path, label in found.samples]


def test_csv_and_json_lines_are_the_same(folder: Path) -> None:
    lines = folder / "list.jsonl"
    lines.write_text(
        "".join(json.dumps(dict(zip(("path", "label", "split"), row, strict=True))) + "\n\n" for row in ROWS)
    )
    for file in (csv_file(folder), str(lines)):
        assert names({"file": file}, True) == [("0.png", "cat"), ("1.png", "dog")]
        assert names({"file": file}, False) == [("2.png", "dog"), ("3.png", "cat")]
        train, test = build_labelled_parts({"type": "ListFile", "file": file}, CONFIG)
        assert train.batch([0, 1])[1].tolist() == [0, 1] and test.classes == ("cat", "dog")


def test_columns_words_delimiter_and_root_are_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [("0.png", "x", 9, "fit"), ("1.png", "x", 10, "check")]
    elsewhere = tmp_path_factory.mktemp("lists") / "list.txt"
    text = "file;note;kind;part\n" + "\n".join(";".join(map(str, row)) for row in rows)
    elsewhere.write_text("﻿" + text)  # a byte order mark, as spreadsheets write it
    data = {
        "file": str(elsewhere),
        "path": "file",
        "label": "kind",
        "split": "part",
        "parts": ["fit", "check"],
        "delimiter": ";",
        "root": str(folder / "a"),
    }
    assert names(data, True) == [("0.png", "9")]
    assert build_dataset({"type": "ListFile", **data}).classes == ("9", "10")  # numbers in their order


def test_two_lists_and_one_that_is_split(folder: Path) -> None:
    train = csv_file(folder, [("a/0.png", "b"), ("a/1.png", "a")], "path,label", "train.csv")
    test = csv_file(folder, [("a/2.png", "c"), ("a/3.png", "a")], "path,label", "test.csv")
    two = {"file": [train, test]}
    assert names(two, True) == [("0.png", "b"), ("1.png", "a")]
    assert names(two, False) == [("2.png", "c"), ("3.png", "a")]
    with pytest.raises(ConfigError, match="leave one of them out"):
        names({**two, "test_share": 0.5}, True)
    whole = csv_file(folder, [(f"a/{n}.png", "xy"[n % 2]) for n in range(12)], "path,label")
    cut = {"file": whole, "test_share": 0.34}
    parts = names(cut, True), names(cut, False)
    assert [len(part) for part in parts] == [8, 4] and not set(parts[0]) & set(parts[1])
    assert [sum(label == "x" for _, label in part) for part in parts] == [4, 2]
    assert names({**cut, "split_seed": 1}, False) != parts[1] and names(cut, False) == parts[1]


def test_a_folder_of_classes_without_parts(tmp_path: Path) -> None:
    root = str(trees.class_folders(tmp_path, 2, per_class=4, parts=("all",)) / "all")
    with pytest.raises(DataError, match=r"give data\.test_share"):
        build_dataset({"type": "ImageFolder", "root": root})
    train, test = build_labelled_parts({"type": "ImageFolder", "root": root, "test_share": 0.25}, CONFIG)
    assert (len(train), len(test)) == (6, 2)


@pytest.mark.parametrize(
    ("rows", "header", "options", "message"),
    [
        (ROWS, "file,label,split", {}, r"line 2: no column 'path' \(data.path\), only 'file', 'label', 'split'"),
        (ROWS, "path,label,splt", {}, "Did you mean 'splt'"),
        ([("a/0.png", "", "train")], "path,label,split", {}, "line 2: label is ''"),
        ([("a/0.png", "x")], "path,label,split", {}, "line 2: 2 columns, but the header has 3"),
        ([*ROWS, ("a/99.png", "cat", "train")], "path,label,split", {}, "a file is not there, first .*99.png"),
        (
            [*ROWS, ("a/0.png", "dog", "train")],
            "path,label,split",
            {},
            "line 6: a/0.png has the label 'dog', but 'cat' in",
        ),
        ([*ROWS, ("a/5.png", "cat", "trian")], "path,label,split", {}, "line 6: the part 'trian', expected one of"),
        (
            [("a/0.png", "x", "train")],
            "path,label,split",
            {"parts": ["fit", "test"]},
            "the part 'train', expected one of",
        ),
        ([], "path,label,split", {}, "lists no image"),
        (ROWS, "path,label,split", {"delimiter": ";;"}, "delimiter is ';;'"),
        (ROWS, "path,label,split", {"delimiter": ";"}, "no column 'path'"),
        (ROWS, "path,label,split", {"test_share": 1.5}, "test_share is 1.5"),
        ([("a/0.png", "x")], "path,label", {"test_share": 0.5}, "class 0 has one item"),
    ],
)
def test_mistakes_are_one_line(rows: Any, header: str, options: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(MtpeftError, match=message) as caught:
        build_dataset({"type": "ListFile", "file": csv_file(folder, rows, header), **options})
    assert "\n" not in str(caught.value)


def test_files_that_are_no_list(folder: Path) -> None:
    for name, content, message in (
        ("x.jsonl", b'{"path": ', "line 1: no JSON"),
        ("y.jsonl", b"[1]", "line 1: '\\[1\\]', expected a mapping"),
        ("z.csv", b"\xff\xfe\x00", "z.csv cannot be read"),
        ("w.xlsx", b"", "w.xlsx is none of .csv"),
        ("v.csv", b'path,label,split\n"a,b,c\n', "v.csv, line"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(MtpeftError, match=message) as caught:
            build_dataset({"type": "ListFile", "file": str(folder / name)})
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        build_dataset({"type": "ListFile", "file": str(folder / "absent.csv")})


def test_the_same_file_in_both_parts_and_damaged_ones(folder: Path) -> None:
    both = csv_file(folder, [*ROWS, ("a/0.png", "cat", "test")])
    with pytest.raises(DataError, match=r"1 files are in both, first .*0\.png"):
        build_labelled_parts({"type": "ListFile", "file": both}, CONFIG)
    (folder / "a/1.png").write_bytes(b"x")
    train, _ = build_labelled_parts({"type": "ListFile", "file": csv_file(folder)}, CONFIG)
    with pytest.raises(DataError, match=r"a/1\.png"):
        train.batch([1])
