"""Every class of torchvision.datasets: built as two different parts, or refused in a line."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from mtpeft.data.reading import read_picture
from mtpeft.data.sources import build_dataset
from mtpeft.data.streams import build_stream
from mtpeft.data.torchvision_sources import all_parameters, part_arguments
from mtpeft.errors import ConfigError, DataError

CLASSES = {n: c for n in datasets.__all__ if inspect.isclass(c := getattr(datasets, n))}
BY_TRAIN = ("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS")
BY_SPLIT = {
    **dict.fromkeys(
        (
            "CLEVRClassification", "Country211", "DTD", "FER2013", "Flowers102", "Food101", "GTSRB", "LFWPeople", "PCAM",
            "RenderedSST2", "STL10", "SVHN", "StanfordCars",
        ),
        ("train", "test"),
    ),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), ("trainval", "test")),
    **dict.fromkeys(("ImageNet", "Imagenette"), ("train", "val")),
    "Places365": ("train-standard", "val"),
}  # fmt: skip
WITHOUT_PARTS = (
    "Caltech101", "Caltech256", "EuroSAT", "FakeData", "INaturalist", "ImageFolder", "LSUN", "Omniglot", "SEMEION", "SUN397",
)  # fmt: skip
VIDEOS = ("HMDB51", "Kinetics", "UCF101")
CONFIG: dict[str, Any] = {"input_size": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 1.0}


def needed(name: str) -> dict[str, Any]:
    """A value for each argument that has no default."""
    found = {k: "x" for k, p in all_parameters(CLASSES[name]).items() if p.default is inspect.Parameter.empty}
    return {k: v for k, v in found.items() if k != "train" and not (k == "split" and name != "EMNIST")}


@pytest.mark.parametrize("name", CLASSES)
def test_the_parts_differ_by_signature_or_the_class_is_refused(name: str) -> None:
    try:
        train, test = (
            part_arguments(f"torchvision.{name}", CLASSES[name], part, needed(name)) for part in (True, False)
        )
    except DataError as error:
        assert "\n" not in str(error) and name in str(error)
        assert name not in BY_TRAIN and name not in BY_SPLIT
        return
    assert name not in WITHOUT_PARTS and name not in VIDEOS
    key = "train" if "train" in all_parameters(CLASSES[name]) else "split"
    assert train[key] != test[key]
    assert {k: v for k, v in train.items() if k != key} == {k: v for k, v in test.items() if k != key}
    if name in BY_TRAIN:
        assert (train["train"], test["train"]) == (True, False)
    if name in BY_SPLIT:
        assert (train["split"], test["split"]) == BY_SPLIT[name]
        source = inspect.getsource(inspect.getmodule(CLASSES[name]) or CLASSES[name])
        assert all(f'"{split}"' in source for split in BY_SPLIT[name]), "the class knows no such part"
    if "loader" in all_parameters(CLASSES[name]):
        assert train["loader"] is test["loader"] is read_picture


def test_every_class_of_images_is_known_here() -> None:
    assert {*BY_TRAIN, *BY_SPLIT, *WITHOUT_PARTS, *VIDEOS} <= set(CLASSES)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"type": "torchvision.EMNIST", "root": "x"}, "needs the argument split"),
        ({"type": "torchvision.CIFAR10", "root": "x", "splits": ("a", "b")}, "takes no argument 'splits'"),
        ({"type": "torchvision.CIFAR10", "root": "x", "train": True}, "takes no argument 'train'"),
        ({"type": "torchvision.SVHN", "root": "x", "splits": ("train", "train")}, "two different parts"),
        ({"type": "torchvision.SVHN", "root": "x", "splits": "train"}, "two different parts"),
        ({"type": "torchvision.ImageNet", "root": "x", "spilts": ("train", "val")}, "takes no argument 'spilts'"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_dataset(config)


def idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, dtype=">u4").tobytes()
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def emnist(root: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for part, count in (("train", 52), ("test", 26)):
        raw = root / "EMNIST/raw"
        idx(raw / f"emnist-letters-{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        idx(raw / f"emnist-letters-{part}-labels-idx1-ubyte", np.arange(count) % 26 + 1)
    return {"split": "letters"}


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)


def food101(root: Path) -> dict[str, Any]:
    for number, part in enumerate(("train", "test")):
        names = {food: [f"{food}/{part}{i}" for i in range(2)] for food in ("apple_pie", "waffles")}
        for i, file in enumerate(f for files in names.values() for f in files):
            picture(root / f"food-101/images/{file}.jpg", 10 * number + i)
        (root / "food-101/meta").mkdir(parents=True, exist_ok=True)
        (root / f"food-101/meta/{part}.json").write_text(json.dumps(names))
    return {}


def trees(folder: str, parts: tuple[str, str], classes: tuple[str, ...], suffix: str = "jpg") -> Any:
    def write(root: Path) -> dict[str, Any]:
        for number, part in enumerate(parts):
            for place, name in enumerate(classes):
                picture(root / folder / part / name / f"{part}{place}.{suffix}", 10 * number + place)
        return {}

    return write


WNIDS = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413", "n03445777",
    "n03888257",
)  # fmt: skip
TREES = {
    "EMNIST": emnist,
    "Food101": food101,
    "Imagenette": trees("imagenette2", ("train", "val"), WNIDS, "JPEG"),
    "RenderedSST2": trees("rendered-sst2", ("train", "test"), ("negative", "positive"), "png"),
    "Country211": trees("country211", ("train", "test"), ("AD", "AE")),
}


@pytest.mark.parametrize("name", TREES)
def test_classes_are_built_from_files_as_two_parts(name: str, tmp_path: Path) -> None:
    options = TREES[name](tmp_path)
    data = {"type": f"torchvision.{name}", "root": str(tmp_path), **options}
    stream = build_stream({"type": "class_incremental", "data": data, "num_tasks": 2}, CONFIG)
    assert len(stream) == 2
    for task in stream:
        assert task.train.batch([0])[0].shape == task.test.batch([0])[0].shape == (1, 3, 8, 8)
        assert task.train.classes == task.test.classes and set(task.train.targets) == set(task.test.targets)


def test_an_argument_that_makes_both_parts_the_same_is_told_of(tmp_path: Path) -> None:
    trees("rendered-sst2", ("train", "test"), ("negative", "positive"), "png")(tmp_path)
    shutil.rmtree(tmp_path / "rendered-sst2/test")
    (tmp_path / "rendered-sst2/test").symlink_to(tmp_path / "rendered-sst2/train")
    data = {"type": "torchvision.RenderedSST2", "root": str(tmp_path)}
    with pytest.raises(DataError, match="2 files are in both"):
        build_stream({"type": "class_incremental", "data": data, "num_tasks": 2}, CONFIG)
