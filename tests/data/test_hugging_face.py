"""Data sets in the Hub's formats, all local: image folders, parquet, and what `save_to_disk` writes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trees
from PIL import Image

from mtpeft.data.labelled import build_labelled_parts
from mtpeft.data.reading import read_image
from mtpeft.data.sources import build_dataset
from mtpeft.errors import DataError, MtpeftError

datasets: Any = pytest.importorskip("datasets")
CONFIG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def encoded(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def table(labels: list[Any], start: int = 0, feature: Any = None) -> Any:
    pictures = [{"bytes": encoded(start + n), "path": None} for n in range(len(labels))]
    features = datasets.Features({"image": datasets.Image(), "label": feature or datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)


def test_an_image_folder(tmp_path: Path) -> None:
    root = trees.class_folders(tmp_path / "tree", 3, per_class=2)
    data = {"type": "hf", "path": "imagefolder", "folder": str(root)}
    train, test = build_labelled_parts(data, CONFIG)
    assert (len(train), len(test)) == (6, 6) and train.classes == ("n000", "n001", "n002")
    own = build_dataset(data)
    file = next((root / "train" / "n000").iterdir())
    assert any((np.asarray(own[index][0]) == read_image(file)).all() for index in (0, 1))


@pytest.mark.parametrize("labels", [["b", "a", "b", "a"], [7, 5, 7, 5]])
def test_parquet_with_labels_of_any_kind(labels: list[Any], tmp_path: Path) -> None:
    feature = None if isinstance(labels[0], str) else datasets.Value("int64")
    files = {}
    for start, part in ((0, "train"), (50, "test")):
        files[part] = str(tmp_path / f"{part}.parquet")
        table(labels, start, feature).to_parquet(files[part])
    train, test = build_labelled_parts({"type": "hf", "path": "parquet", "files": files}, CONFIG)
    assert train.targets == [1, 0, 1, 0] and train.classes == tuple(map(str, sorted(set(labels))))
    assert test.batch([0, 3])[0].shape == (2, 3, 8, 8)


def test_saved_to_disk_whole_and_split(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["x", "y"])
    one = table([0, 1] * 4, 0, names)
    one.save_to_disk(str(tmp_path / "one"))
    cut = {"type": "hf", "path": str(tmp_path / "one"), "test_share": 0.25}
    train, test = build_labelled_parts(cut, CONFIG)
    assert (len(train), len(test)) == (6, 2) and train.classes == ("x", "y")
    with pytest.raises(MtpeftError, match="unknown split 'test'"):
        build_labelled_parts({**cut, "test_share": None}, CONFIG)
    parts = datasets.DatasetDict({"fit": one, "check": table([1, 0], 90, names)})
    parts.save_to_disk(str(tmp_path / "two"))
    named = {"type": "hf", "path": str(tmp_path / "two"), "parts": ["fit", "check"]}
    assert [len(part) for part in build_labelled_parts(named, CONFIG)] == [8, 2]
    same = datasets.DatasetDict({"train": one, "test": one})
    same.save_to_disk(str(tmp_path / "same"))
    with pytest.raises(DataError, match="are the same 8 samples"):
        build_labelled_parts({"type": "hf", "path": str(tmp_path / "same")}, CONFIG)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(MtpeftError) as caught:
            build_dataset({"type": "hf", **options})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    table(["a", "b"]).save_to_disk(str(tmp_path / "one"))
    path = str(tmp_path / "one")
    assert "a stream of data cannot be drawn from in any order" in refused(path=path, streaming=True)
    assert "unknown column 'img'" in refused(path=path, image="img")
    assert "column 'label' is of type" in refused(path=path, image="label", label="image")
    assert "leave out data_dir" in refused(path=path, folder="x")
    assert "cannot be loaded" in refused(path=str(tmp_path / "nothing"))
    assert "cannot be loaded" in refused(path="someone/no-such-data-set")
    assert "cannot be loaded" in refused(path="parquet", files=str(tmp_path / "x.parquet"))
    table([0, -1], 0, datasets.ClassLabel(names=["x", "y"])).save_to_disk(str(tmp_path / "none"))
    assert "row 1: label is -1, expected a class" in refused(path=str(tmp_path / "none"))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    bad = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"no image", "path": "odd.png"}], "label": ["a"]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
    )
    bad.save_to_disk(str(tmp_path / "bad"))
    found = build_dataset({"type": "hf", "path": str(tmp_path / "bad")})
    with pytest.raises(DataError, match=r"row 0 \(odd\.png\): the image cannot be read"):
        found[0]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install \"mtpeft\[hf\]\""):
        build_dataset({"type": "hf", "path": "x"})
