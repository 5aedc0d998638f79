"""Data sets by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtpeft.data.layouts import LAYOUTS
from mtpeft.data.sources import _REGISTRY, build_dataset, dataset_names, register_dataset
from mtpeft.errors import ConfigError, DataError, UnknownNameError
from mtpeft.options import options_of
from mtpeft.testing.wrong_values import wrong_values


def folders(root: Path, counts: dict[str, dict[str, int]]) -> Path:
    """An image folder: part -> class -> number of images, of sizes that differ."""
    rng = np.random.default_rng(0)
    for part, classes in counts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def test_registered_names_build_both_parts() -> None:
    assert {"FashionMNIST", "Digits", "ImageFolder"} <= set(dataset_names())
    assert len(build_dataset({"type": "FashionMNIST"}, train=False)) == 10_000
    assert len(build_dataset({"type": "Digits"}, train=True)) > len(build_dataset({"type": "Digits"}, train=False))


def test_a_registered_factory_is_called_with_the_part_and_its_arguments() -> None:
    @register_dataset("test-source")
    def source(train: bool, size: int = 3) -> Any:
        return (train, size)

    assert build_dataset({"type": "test-source", "size": 5}, train=False) == (False, 5)
    with pytest.raises(ConfigError, match="registered already"):
        register_dataset("test-source")(lambda train: None)
    with pytest.raises(ConfigError, match=r"takes no argument 'siz'. Did you mean 'size'"):
        build_dataset({"type": "test-source", "siz": 5})
    with pytest.raises(ConfigError, match="takes no argument 'train'"):
        build_dataset({"type": "test-source", "train": True})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"type": "FashionMNISt"}, "Did you mean 'FashionMNIST'"),
        ({"type": "torchvision.CIFAR1000"}, "Did you mean 'torchvision.CIFAR100'"),
        ({"type": "torchvision.os"}, "unknown data set 'torchvision.os'"),
    ],
)
def test_unknown_names_offer_the_nearest(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UnknownNameError, match=words):
        build_dataset(config)


def test_missing_type_and_arguments() -> None:
    with pytest.raises(ConfigError, match="needs a key 'type'"):
        build_dataset({"root": "x"})
    with pytest.raises(ConfigError, match="needs the argument root"):
        build_dataset({"type": "ImageFolder"})


def test_image_folder_uses_test_or_val(tmp_path: Path) -> None:
    root = folders(tmp_path, {"train": {"a": 2, "b": 1}, "val": {"a": 1, "b": 1}})
    assert build_dataset({"type": "ImageFolder", "root": str(root)}).targets == [0, 0, 1]
    assert build_dataset({"type": "ImageFolder", "root": str(root)}, train=False).targets == [0, 1]
    with pytest.raises(DataError, match="no folder train in it"):
        build_dataset({"type": "ImageFolder", "root": str(root / "train")})
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"ImageFolder .*empty") as caught:
        build_dataset({"type": "ImageFolder", "root": str(tmp_path / "empty")})
    assert "\n" not in str(caught.value)


def test_torchvision_class_by_name_with_its_own_part(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    ours = build_dataset({"type": "FashionMNIST"}, train=False)
    for part in ("train", "t10k"):  # torchvision needs both, whichever it reads
        header = b"\x00\x00\x08\x03" + np.array(ours.data.shape, dtype=">u4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + ours.data.tobytes())
        header = b"\x00\x00\x08\x01" + np.array(len(ours), dtype=">u4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(ours.targets))
    theirs = build_dataset({"type": "torchvision.FashionMNIST", "root": str(tmp_path)}, train=False)
    assert not theirs.train and theirs.targets.tolist() == ours.targets


def test_torchvision_errors_become_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"torchvision.CIFAR100 in .*: Dataset not found") as caught:
        build_dataset({"type": "torchvision.CIFAR100", "root": str(tmp_path), "download": False})
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"takes no argument 'rooot'. Did you mean 'root'"):
        build_dataset({"type": "torchvision.CIFAR100", "rooot": str(tmp_path)})
    with pytest.raises(ConfigError, match="takes no argument 'split'"):
        build_dataset({"type": "torchvision.SVHN", "root": str(tmp_path), "split": "train"})
    with pytest.raises(DataError, match="no training and test part"):
        build_dataset({"type": "torchvision.EuroSAT", "root": str(tmp_path)})


NEEDED: dict[str, dict[str, Any]] = {
    "VTAB": {"root": "x", "task": "svhn"},
    "FGVC": {"root": "x", "task": "cub"},
    "ListFile": {"file": "x.csv"},
    "hf": {"path": "x"},
}


@pytest.mark.parametrize("name", sorted({"ImageFolder", "ListFile", "hf", *LAYOUTS}))
def test_options_of_other_types_are_one_line(name: str) -> None:
    needed = NEEDED.get(name, {"root": "x"})
    for key, option in options_of(_REGISTRY[name]).items():
        for value in wrong_values(option.annotation) if key != "train" else ():
            with pytest.raises(ConfigError, match=key) as caught:
                build_dataset({"type": name, **needed, key: value})
            assert "\n" not in str(caught.value)
