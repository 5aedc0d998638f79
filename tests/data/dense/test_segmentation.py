"""mmsegmentation's data sets and COCO's panoptic annotations, with generated files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtpeft.data.dense import build_dense_dataset
from mtpeft.errors import DataError

# Image and label of the first training image, and of a second one that comes later.
FILES = {
    "cityscapes": (
        "leftImg8bit/train/{id}_leftImg8bit.png",
        "gtFine/train/{id}_gtFine_labelTrainIds.png",
        ("aachen/aachen_000000_000019", "ulm/ulm_000001_000019"),
    ),
    "ade20k": (
        "images/training/{id}.jpg",
        "annotations/training/{id}.png",
        ("ADE_train_00000001", "ADE_train_00000002"),
    ),
    "voc2012": ("JPEGImages/{id}.jpg", "SegmentationClass/{id}.png", ("2007_000032", "2007_000039")),
    "coco_stuff": (
        "images/train2017/{id}.jpg",
        "annotations/train2017/{id}_labelTrainIds.png",
        ("000000000009", "000000000025"),
    ),
    "coco_panoptic": (
        "train2017/{id}.jpg",
        "annotations/panoptic_train2017/{id}.png",
        ("000000000009", "000000000025"),
    ),
}
CLASSES = {"cityscapes": 19, "ade20k": 150, "voc2012": 21, "coco_stuff": 171}


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write(root: Path, name: str, label: np.ndarray) -> list[Path]:
    """Both images of `FILES`, the given label for each; returns the label files."""
    image_pattern, label_pattern, names = FILES[name]
    for identity in names:
        save(root / image_pattern.format(id=identity), np.full((*label.shape[:2], 3), 90, dtype=np.uint8))
        save(root / label_pattern.format(id=identity), label)
    if name == "voc2012":
        (root / "ImageSets/Segmentation").mkdir(parents=True)
        (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names) + "\n")
    return [root / label_pattern.format(id=identity) for identity in names]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_mmsegmentations_data_sets(tmp_path: Path, name: str) -> None:
    stored = np.array([[0, 1, 2], [5, 18, 255]], dtype=np.uint8)
    files = write(tmp_path, name, stored)
    dataset = build_dense_dataset(name, "train", root=str(tmp_path))
    assert len(dataset) == 2 and set(dataset.tasks) == {"semseg"}
    assert (
        dataset.tasks["semseg"].options
        == {"classes": CLASSES[name]}
        == {"classes": len(dataset.tasks["semseg"].classes)}
    )
    sample = dataset[1]
    sample.check_sizes()
    reduced = [[255, 0, 1], [4, 17, 255]]
    assert sample.labels["semseg"].tolist() == (reduced if name == "ade20k" else stored.tolist())
    assert FILES[name][2][1] in sample.name
    files[0].unlink()
    with pytest.raises(
        DataError, match=rf"'{name}': label files are missing \(semseg 1 of 2\), first .*{files[0].name}"
    ):
        build_dense_dataset(name, "train", root=str(tmp_path))
    assert build_dense_dataset(name, "train", root=str(tmp_path), missing="skip")[0].labels == {}
    with pytest.raises(DataError, match=r"is missing; is data\.root"):
        build_dense_dataset(name, "val", root=str(tmp_path))


def panoptic(root: Path, categories: list[int]) -> None:
    """Segments 7 (category 200) and 66051 = 3 + 256 * 2 + 256^2 (category 1), and an unlabelled pixel."""
    colours = np.array([[[7, 0, 0], [3, 2, 1], [0, 0, 0]]], dtype=np.uint8)
    write(root, "coco_panoptic", colours)
    segments = [{"id": 7, "category_id": 200}, {"id": 66051, "category_id": 1}]
    content = {
        "categories": [{"id": number, "name": f"class {number}"} for number in categories],
        "annotations": [
            {"file_name": f"{identity}.png", "segments_info": segments} for identity in FILES["coco_panoptic"][2]
        ],
    }
    (root / "annotations/panoptic_train2017.json").write_text(json.dumps(content))


def test_coco_panoptic_is_read_as_classes(tmp_path: Path) -> None:
    panoptic(tmp_path, categories=[200, 1, 90])
    dataset = build_dense_dataset("coco_panoptic", "train", root=str(tmp_path))
    assert dataset.tasks["semseg"].classes == ("class 1", "class 90", "class 200")
    assert dataset[0].labels["semseg"].tolist() == [[2, 0, 255]]
    save(tmp_path / FILES["coco_panoptic"][1].format(id="000000000009"), np.full((1, 3, 3), 9, dtype=np.uint8))
    with pytest.raises(DataError, match=r"000000000009\.png: segment 592137 is not in the JSON file"):
        dataset[0]


def test_damaged_panoptic_annotations_are_named(tmp_path: Path) -> None:
    panoptic(tmp_path, categories=[200])  # a segment of category 1, which is not listed
    with pytest.raises(DataError, match=r"panoptic_train2017\.json: the panoptic annotations cannot be read"):
        build_dense_dataset("coco_panoptic", "train", root=str(tmp_path))
