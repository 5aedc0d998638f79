"""Fashion-MNIST and the digits: the real files, and damaged ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from mtpeft.data.digits import Digits
from mtpeft.data.fashion_mnist import FashionMNIST
from mtpeft.errors import DataError

NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")


def idx(array: np.ndarray, magic: bytes | None = None) -> bytes:
    """The bytes of an idx file, not compressed."""
    start = magic if magic is not None else bytes((0, 0, 8, array.ndim))
    return start + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, images: bytes, labels: bytes) -> None:
    for name, content in zip(NAMES, (images, labels), strict=True):
        (folder / name).write_bytes(gzip.compress(content))


IMAGES = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([2, 0, 9], dtype=np.uint8)


@pytest.mark.parametrize(("train", "count"), [(True, 60_000), (False, 10_000)])
def test_real_files_hold_all_images_with_balanced_classes(train: bool, count: int) -> None:
    dataset = FashionMNIST(train=train)
    assert dataset.data.shape == (count, 28, 28) and dataset.data.dtype == np.uint8
    assert len(dataset) == len(dataset.targets) == count
    assert np.bincount(dataset.targets).tolist() == [count // 10] * 10
    assert len(dataset.classes) == 10


def test_real_files_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    ours = FashionMNIST(train=False)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, train in (("train", True), ("t10k", False)):
        source = FashionMNIST(train=train)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(source.data))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.array(source.targets, dtype=np.uint8)))
    theirs = datasets.FashionMNIST(str(tmp_path), train=False)
    assert np.array_equal(ours.data, theirs.data.numpy())
    assert ours.targets == theirs.targets.tolist()
    assert list(ours.classes) == theirs.classes
    assert ours[7][0].tobytes() == theirs[7][0].tobytes() and ours[7][1] == theirs[7][1]


def test_items_are_pil_images_or_what_the_transform_makes(tmp_path: Path) -> None:
    write(tmp_path, idx(IMAGES), idx(LABELS))
    image, label = FashionMNIST(tmp_path)[1]
    assert isinstance(image, Image.Image) and image.mode == "L" and label == 0
    assert np.array_equal(np.asarray(image), IMAGES[1])
    assert FashionMNIST(tmp_path, transform=lambda picture: picture.size)[2] == ((28, 28), 9)


def test_missing_files_name_every_folder_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTPEFT_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("mtpeft.data.fashion_mnist.DEBIAN_FOLDER", tmp_path / "debian")
    with pytest.raises(DataError) as caught:
        FashionMNIST()
    message = str(caught.value)
    for folder in ("elsewhere", "elsewhere/fashion-mnist", "data/fashion-mnist", "debian"):
        assert folder in message
    assert "make data" in message and "dataset-fashion-mnist" in message and "\n" not in message


def test_the_environment_names_the_folder_or_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    write(tmp_path / "fashion-mnist", idx(IMAGES), idx(LABELS))
    for folder in (tmp_path, tmp_path / "fashion-mnist"):
        monkeypatch.setenv("MTPEFT_DATA", str(folder))
        assert FashionMNIST().targets == [2, 0, 9]


def test_a_given_root_is_the_only_folder_looked_at(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"not found in {tmp_path};"):
        FashionMNIST(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "file", "words"),
    [
        (idx(IMAGES, b"\x00\x00\x08\x01"), idx(LABELS), 0, "not an idx file of bytes in 3 dimensions"),
        (idx(IMAGES), b"", 1, "not an idx file"),
        (idx(IMAGES)[:-5], idx(LABELS), 0, r"sizes \(3, 28, 28\) in the header, but 2347 bytes"),
        (idx(IMAGES)[:9], idx(LABELS), 0, "only 9 bytes long"),
        (idx(IMAGES[:, :20]), idx(LABELS), 0, "20 x 28, expected 28 x 28"),
        (idx(IMAGES), idx(LABELS[:2]), 1, "2 labels, 3 images"),
        (idx(IMAGES), idx(np.array([1, 10, 2], dtype=np.uint8)), 1, "label 10 at index 1, expected 0 to 9"),
    ],
)
def test_wrong_contents_name_the_file(tmp_path: Path, images: bytes, labels: bytes, file: int, words: str) -> None:
    write(tmp_path, images, labels)
    with pytest.raises(DataError, match=words) as caught:
        FashionMNIST(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / NAMES[file]))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip"])
def test_damaged_gzip_names_the_file(tmp_path: Path, damage: str) -> None:
    write(tmp_path, idx(IMAGES), idx(LABELS))
    path = tmp_path / NAMES[0]
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray(b"<html>not found</html>")
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged or unreadable") as caught:
        FashionMNIST(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_digits_are_split_by_class_without_loss() -> None:
    train, test = Digits(train=True), Digits(train=False)
    assert len(train) + len(test) == 1797
    assert train.data.dtype == np.uint8 and train.data.shape[1:] == (8, 8)
    assert train.data.max() == 255 and train.data.min() == 0
    counts = np.bincount(train.targets) + np.bincount(test.targets)
    assert np.array_equal(np.bincount(test.targets), counts // 5)
    image, label = test[0]
    assert image.size == (8, 8) and label == test.targets[0]
