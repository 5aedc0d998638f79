"""The published folder layouts, with generated files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mtpeft.data.dense import build_dense_dataset
from mtpeft.data.dense.batch import DenseView
from mtpeft.errors import ConfigError, DataError, UnknownNameError

SIZE = (8, 10)
NORMAL = np.array([0.6, 0.0, 0.8])


def save_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_npy(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def save_list(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def encoded(normals: np.ndarray) -> np.ndarray:
    return np.round((normals + 1) / 2 * 255).astype(np.uint8)


@pytest.fixture
def nyud(tmp_path: Path) -> Path:
    """Two training images in the version with .npy files, one validation image in the later one with .png files."""
    for part, names in (("train", ["0003", "0004"]), ("val", ["0001"])):
        save_list(tmp_path / f"gt_sets/{part}.txt", names)
        for number, name in enumerate(names):
            stored = np.full(SIZE, 40, dtype=np.uint8)
            stored[0], stored[1] = 0, 1
            save_png(tmp_path / f"segmentation/{name}.png", stored)
            save_npy(tmp_path / f"depth/{name}.npy", np.full(SIZE, 2.5 + number, dtype=np.float32))
            normals = np.broadcast_to(NORMAL, (*SIZE, 3)).copy()
            normals[0] = 0
            edge = np.zeros(SIZE)
            edge[2] = 1
            if part == "train":
                save_png(tmp_path / f"images/{name}.jpg", photo(number))
                save_npy(tmp_path / f"normals/{name}.npy", normals.astype(np.float32))
                save_npy(tmp_path / f"edge/{name}.npy", edge)
            else:
                save_png(tmp_path / f"images/{name}.png", photo(number))
                save_png(tmp_path / f"normals/{name}.png", encoded(normals))
                save_png(tmp_path / f"edge/{name}.png", (edge * 255).astype(np.uint8))
    return tmp_path


def person(parts: dict[str, tuple[slice, slice]]) -> dict[str, Any]:
    mask = np.zeros(SIZE, dtype=np.uint8)
    entries = []
    for name, place in parts.items():
        part = np.zeros(SIZE, dtype=np.uint8)
        part[place] = 1
        mask |= part
        entries.append({"part_name": name, "mask": part})
    return {"class": "person", "class_ind": 15, "mask": mask, "parts": np.array(entries, dtype=object)}


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    """Two training images: two persons and a dog; a dog alone."""
    save_list(tmp_path / "ImageSets/Context/train.txt", ["2008_000002", "2008_000003"])
    head, leg, arm = np.s_[0:2, 0:2], np.s_[4:6, 0:2], np.s_[0:2, 6:8]
    dog = {"class": "dog", "class_ind": 12, "mask": np.ones(SIZE, dtype=np.uint8), "parts": np.array([], dtype=object)}
    people = [person({"hair": head, "llleg": leg}), dog, person({"ruarm": arm})]
    for name, objects in (("2008_000002", people), ("2008_000003", [dog])):
        save_png(tmp_path / f"JPEGImages/{name}.jpg", photo(1))
        anno = {"imname": name, "objects": np.array(objects, dtype=object)}
        (tmp_path / "human_parts").mkdir(exist_ok=True)
        savemat(tmp_path / f"human_parts/{name}.mat", {"anno": anno})
        context = np.full(SIZE, 2, dtype=np.uint16)  # aeroplane: no such class in NYUD-v2
        context[:, 5:] = 427  # tvmonitor
        (tmp_path / "pascal-context/trainval").mkdir(parents=True, exist_ok=True)
        savemat(tmp_path / f"pascal-context/trainval/{name}.mat", {"LabelMap": context})
        save_png(tmp_path / f"normals_distill/{name}.png", encoded(np.broadcast_to(NORMAL, (*SIZE, 3))))
        saliency = np.zeros(SIZE, dtype=np.uint8)
        saliency[3], saliency[4] = 255, 100
        save_png(tmp_path / f"sal_distill/{name}.png", saliency)
    save_png(tmp_path / "semseg/VOC12/2008_000002.png", np.full(SIZE, 20, dtype=np.uint8))
    save_png(tmp_path / "semseg/pascal-context/2008_000002.png", np.full(SIZE, 3, dtype=np.uint8))
    save_png(tmp_path / "semseg/pascal-context/2008_000003.png", np.full(SIZE, 255, dtype=np.uint8))
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val"])
def test_nyud(nyud: Path, split: str) -> None:
    dataset = build_dense_dataset("nyud_mt", split, root=str(nyud))
    assert len(dataset) == {"train": 2, "val": 1}[split]
    sample = dataset[0]
    sample.check_sizes()
    assert sample.labels["semseg"][:3, 0].tolist() == [255, 0, 39]  # unlabelled, wall, other prop
    assert sample.labels["depth"].dtype == np.float32 and (sample.labels["depth"] == 2.5).all()
    assert (sample.labels["normals"][0] == 0).all()
    np.testing.assert_allclose(sample.labels["normals"][1:], np.broadcast_to(NORMAL, (7, 10, 3)), atol=0.005)
    assert sample.labels["edges"].sum() == 10 and sample.labels["edges"][2].all()
    assert len(dataset.tasks["semseg"].classes) == 40
    assert dataset.tasks["edges"].options == {"max_distance": 0.011}
    assert np.abs(sample.image.astype(int) - photo(0)).mean() < 60  # .jpg is not exact


def test_pascal(pascal: Path) -> None:
    dataset = build_dense_dataset("pascal_mt", "train", root=str(pascal))
    both, dog = dataset[0], dataset[1]
    both.check_sizes()
    assert set(both.labels) == {"semseg", "human_parts", "saliency", "normals", "edges"}
    parts = both.labels["human_parts"]
    assert (parts[0, 0], parts[4, 0], parts[0, 6]) == (1, 6, 3)  # head, lower leg, upper arm
    assert np.bincount(parts.ravel(), minlength=7).tolist() == [68, 4, 0, 4, 0, 0, 4]
    assert "human_parts" not in dog.labels  # nobody in it
    assert (both.labels["semseg"] == 20).all() and (dog.labels["semseg"] == 255).all()
    assert both.labels["saliency"].sum() == 10 and both.labels["saliency"][3].all()
    assert (both.labels["normals"][:, :5] == 0).all()
    np.testing.assert_allclose(both.labels["normals"][:, 5:], np.broadcast_to(NORMAL, (8, 5, 3)), atol=0.005)
    edges = both.labels["edges"]
    assert set(edges.nonzero()[1]) <= {4, 5} and edges.any(axis=1).mean() > 0.7 and edges.sum() <= 8


def test_only_the_files_of_the_chosen_tasks_are_needed(nyud: Path) -> None:
    for file in (nyud / "normals").iterdir():
        file.unlink()
    dataset = build_dense_dataset("nyud_mt", "train", root=str(nyud), tasks=["depth", "edges"])
    assert set(dataset.tasks) == set(dataset[0].labels) == {"depth", "edges"}
    with pytest.raises(UnknownNameError, match=r"'dept'.*data\.tasks.*'depth'"):
        build_dense_dataset("nyud_mt", "train", root=str(nyud), tasks=["dept"])


def test_missing_label_files_are_named_and_counted(nyud: Path) -> None:
    for name in ("0003", "0004"):
        (nyud / f"depth/{name}.npy").unlink()
    (nyud / "edge/0004.npy").unlink()
    with pytest.raises(DataError, match=r"\(depth 2 of 2, edges 1 of 2\), first .*depth/0003\.npy"):
        build_dense_dataset("nyud_mt", "train", root=str(nyud))
    dataset: Any = build_dense_dataset("nyud_mt", "train", root=str(nyud), missing="skip")
    assert set(dataset[0].labels) == {"semseg", "normals", "edges"}
    assert [path.name for path in dataset.missing_files["depth"]] == ["0003.npy", "0004.npy"]
    with pytest.raises(ConfigError, match="missing is 'ignore'"):
        build_dense_dataset("nyud_mt", "train", root=str(nyud), missing="ignore")


def _no_image(root: Path) -> None:
    (root / "images/0004.jpg").unlink()


def _no_list(root: Path) -> None:
    (root / "gt_sets/train.txt").unlink()


def _empty_list(root: Path) -> None:
    (root / "gt_sets/train.txt").write_text("\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_image, r"1 of 2 images are missing, first .*0004\.jpg"),
        (_no_list, r"train\.txt is missing; is data\.root"),
        (_empty_list, "names no image"),
    ],
)
def test_incomplete_folders(nyud: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(nyud)
    with pytest.raises(DataError, match=message):
        build_dense_dataset("nyud_mt", "train", root=str(nyud))


def test_damaged_files_and_wrong_sizes_are_named(nyud: Path, pascal: Path) -> None:
    dataset = build_dense_dataset("nyud_mt", "train", root=str(nyud))
    view = DenseView(dataset, None, seed=0, mean=(0, 0, 0), std=(1, 1, 1))
    np.save(nyud / "depth/0003.npy", np.ones((8, 9), dtype=np.float32))
    with pytest.raises(DataError, match=r"images/0003\.jpg: label 'depth' is 8 x 9 pixels, its image 8 x 10"):
        view[0]
    (nyud / "depth/0003.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"depth/0003\.npy: the label 'depth' cannot be read"):
        view[0]
    (nyud / "images/0004.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"images/0004\.jpg: the image cannot be read"):
        view[1]
    dataset = build_dense_dataset("pascal_mt", "train", root=str(pascal), tasks=["human_parts"])
    (pascal / "human_parts/2008_000002.mat").write_bytes(b"no mat file")
    with pytest.raises(DataError, match=r"2008_000002\.mat"):
        dataset[0]
    savemat(
        pascal / "human_parts/2008_000003.mat", {"anno": {"objects": [person({"wing": np.s_[0:2, 0:2]})], "imname": ""}}
    )
    with pytest.raises(DataError, match="unknown human part 'wing'"):
        dataset[1]


def test_the_root_is_required() -> None:
    with pytest.raises(ConfigError, match="'nyud_mt' needs the option 'root'"):
        build_dense_dataset("nyud_mt", "train")
