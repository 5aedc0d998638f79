"""Training and test part: classes matched by name, and different samples."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mtpeft.data.classes import same_classes
from mtpeft.data.dense import DENSE_DATASETS, Sample, TaskInfo
from mtpeft.data.dense.parts import build_parts
from mtpeft.data.images import TensorImages
from mtpeft.data.sources import read_class_names, register_dataset
from mtpeft.data.streams import build_stream, class_incremental, domain_incremental, task_incremental
from mtpeft.data.task_list import build_task_list
from mtpeft.data.to_images import to_images
from mtpeft.errors import DataError

CONFIG: dict[str, Any] = {"input_size": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 1.0}
SHADES = {"ant": 10, "bee": 60, "cat": 110, "dog": 160}


class Shades:
    """Each class has a brightness of its own, so that a picture tells its class; `classes` in the order given."""

    def __init__(self, classes: tuple[str, ...], shown: tuple[str, ...] | None = None, offset: int = 0) -> None:
        self.classes = classes
        names = [name for name in shown or classes for _ in range(3)]
        self.targets = [classes.index(name) for name in names]
        values = torch.tensor([SHADES[name] + offset + i % 3 for i, name in enumerate(names)], dtype=torch.uint8)
        self.data = values[:, None, None].expand(-1, 8, 8).clone()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.fromarray(self.data[index].numpy()), self.targets[index]


def class_of(pixels: torch.Tensor) -> str:
    return min(SHADES, key=lambda name: abs(SHADES[name] - int(pixels.float().mean())))


def names_of(part: Any) -> set[tuple[int, str]]:
    """Which label goes with which picture."""
    return {(part.targets[i], class_of(part.raw(i))) for i in range(len(part))}


ORDERS = [order for order in itertools.permutations(SHADES) if order[0] != "ant"][::5]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("make", [class_incremental, task_incremental])
def test_a_test_part_in_another_order_is_matched_by_name(make: Any, order: tuple[str, ...]) -> None:
    train = to_images(Shades(tuple(SHADES)), CONFIG, name="train")
    test = to_images(Shades(order, offset=5), CONFIG, name="test")
    for options in ({"num_tasks": 2}, {"num_tasks": 4, "order_seed": 3}, {"num_tasks": 2, "test_per_class": 2}):
        stream = make(train, test, **options)
        for task in stream:
            assert names_of(task.train) == names_of(task.test) and len(names_of(task.test)) == len(task.classes)
            assert task.train.classes == task.test.classes


def test_domains_and_labels_that_do_not_begin_at_0() -> None:
    some = ("cat", "ant", "dog")
    first = to_images(Shades(tuple(SHADES), shown=some), CONFIG)  # labels 0, 2 and 3
    others = [to_images(Shades(order, shown=some, offset=5), CONFIG) for order in ORDERS]
    stream = domain_incremental([("a", first, others[0]), ("b", others[1], first), ("c", others[2], others[3])])
    for task in stream:
        assert names_of(task.train) == names_of(task.test) == {(0, "ant"), (1, "cat"), (2, "dog")}
        assert task.labels == (0, 1, 2) and task.train.classes == task.test.classes == ("ant", "cat", "dog")
    assert stream.describe()["tasks"][0]["class_names"] == ["ant", "cat", "dog"]
    with pytest.raises(DataError, match="domain 'b' lacks 'cat'"):
        fewer = to_images(Shades(tuple(SHADES), shown=("ant", "dog")), CONFIG)
        domain_incremental([("a", first, first), ("b", fewer, fewer)])


def test_different_classes_are_named_with_the_part_that_lacks_them() -> None:
    train = to_images(Shades(("ant", "bee", "cat")), CONFIG, name="train")
    test = to_images(Shades(("bee", "ant", "dog")), CONFIG, name="test")
    with pytest.raises(DataError, match="differ in their classes: train lacks 'dog'; test lacks 'cat'"):
        class_incremental(train, test, num_tasks=3)
    many = {number: f"c{number}" for number in range(9)}
    with pytest.raises(DataError, match="b lacks 'c1', 'c2', 'c3', 'c4', 'c5' and 3 more"):
        same_classes(many, {0: "c0"}, "a", "b")


def test_names_that_occur_twice_need_the_same_order() -> None:
    cranes = {0: "crane", 1: "crane", 2: "dog"}
    assert same_classes(cranes, dict(cranes), "a", "b") == {0: 0, 1: 1, 2: 2}
    with pytest.raises(DataError, match="a: 2 classes are named 'crane'"):
        same_classes(cranes, {0: "dog", 1: "crane", 2: "crane"}, "a", "b")


def test_class_names_come_from_classes_or_class_to_idx_which_must_agree() -> None:
    source: Any = Shades(("ant", "bee"))
    del source.classes
    assert read_class_names(source, source.targets) == ("0", "1")
    source.class_to_idx = {"bee": 1, "ant": 0}
    assert read_class_names(source, source.targets) == ("ant", "bee")
    source.classes = ("ant", "bee")
    assert read_class_names(source, source.targets) == ("ant", "bee")
    source.classes = ("bee", "ant")
    with pytest.raises(DataError, match="pets: class 'bee' is number 0 in `classes`, but 1 in `class_to_idx`"):
        read_class_names(source, source.targets, "pets")


def write_folders(root: Path, parts: dict[str, tuple[str, ...]], offset: int = 0) -> None:
    for part, classes in parts.items():
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for index in range(2):
                shade = SHADES[name] + index + (offset if part == "train" else 5)
                Image.fromarray(np.full((8, 8), shade, dtype=np.uint8)).save(root / part / name / f"{part}{index}.png")


def test_image_folders_number_each_part_for_itself(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train": ("ant", "bee", "dog"), "test": ("bee", "cat", "dog")})
    recipe = {"type": "task_incremental", "data": {"type": "ImageFolder", "root": str(tmp_path)}, "num_tasks": 3}
    with pytest.raises(DataError, match="ImageFolder train lacks 'cat'; ImageFolder test lacks 'ant'"):
        build_stream(recipe, CONFIG)
    shutil.move(tmp_path / "test/cat", tmp_path / "test/ant")  # now the same names, and labels
    assert len(build_stream(recipe, CONFIG)) == 3


@pytest.mark.parametrize("order", ORDERS[:2])
def test_tasks_of_several_data_sets_match_by_name(order: tuple[str, ...]) -> None:
    @register_dataset(f"shades-{'-'.join(order)}")
    def shades(train: bool) -> Any:
        return Shades(tuple(SHADES)) if train else Shades(order, offset=5)

    data = {"type": f"shades-{'-'.join(order)}"}
    tasks = {"all": {}, "some": {"classes": ["dog", "ant"]}}
    stream = build_task_list({"type": "task_incremental", "data": data, "tasks": tasks}, CONFIG)
    for task in stream:
        assert names_of(task.train) == names_of(task.test)
    assert names_of(stream[1].test) == {(0, "dog"), (1, "ant")}


# the same samples in both parts --------------------------------------------------------------------------------------


def test_parts_of_the_same_samples_are_refused(tmp_path: Path) -> None:
    @register_dataset("part-is-ignored")
    def ignored(train: bool) -> Any:
        return Shades(tuple(SHADES))

    for data in ({"type": "part-is-ignored"},):
        with pytest.raises(DataError, match="are the same 12 samples"):
            build_stream({"type": "class_incremental", "data": data, "num_tasks": 2}, CONFIG)
    write_folders(tmp_path, {"train": ("ant", "bee")})
    folder = {"type": "class_incremental", "data": {"type": "ImageFolder", "root": str(tmp_path)}, "num_tasks": 2}
    (tmp_path / "test").symlink_to(tmp_path / "train")
    with pytest.raises(DataError, match=r"4 files are in both, first .*train0\.png"):
        build_stream(folder, CONFIG)
    (tmp_path / "test").unlink()
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    with pytest.raises(DataError, match="are the same 4 samples"):
        build_stream(folder, CONFIG)
    shutil.rmtree(tmp_path / "test")
    write_folders(tmp_path, {"test": ("ant", "bee")})
    assert len(build_stream(folder, CONFIG)) == 2
    (tmp_path / "test/bee/leaked.png").symlink_to(tmp_path / "train/bee/train1.png")
    with pytest.raises(DataError, match="1 files are in both"):
        build_stream(folder, CONFIG)


# dense labels --------------------------------------------------------------------------------------------------------


class Stripes:
    """Labels of classes, whose numbers each part may have in an order of its own."""

    def __init__(self, split: str, val: tuple[str, ...] = ("sky", "sea")) -> None:
        self.names = ("sea", "sky") if split == "train" else val
        self.tasks = {"semseg": TaskInfo("semseg", {"classes": len(self.names)}, self.names)}

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        label = np.array([[self.names.index("sea")], [1 - self.names.index("sea")], [255]])
        return Sample(np.zeros((3, 1, 3), np.uint8), {"semseg": label}, "s")


def test_dense_labels_of_the_validation_part_are_numbered_as_in_training() -> None:
    DENSE_DATASETS.add("stripes", Stripes)
    try:
        parts = build_parts("stripes", {})
        assert [parts[split][0].labels["semseg"].ravel().tolist() for split in ("train", "val")] == [[0, 1, 255]] * 2
        assert parts["val"].tasks["semseg"].classes == ("sea", "sky") and len(parts["val"]) == 1
        with pytest.raises(
            DataError, match=r"label 'semseg' of stripes train lacks 'sand'; .* stripes val lacks 'sky'"
        ):
            build_parts("stripes", {"val": ("sea", "sand")})
    finally:
        DENSE_DATASETS.discard("stripes")


def test_tensor_images_of_one_channel_and_of_three_make_one_batch() -> None:
    from mtpeft.data.images import stacked

    assert stacked([torch.zeros(1, 2, 2), torch.ones(3, 2, 2)]).shape == (2, 3, 2, 2)
    assert stacked([torch.zeros(1, 2, 2)]).shape == (1, 1, 2, 2)
    assert TensorImages("t", torch.zeros(1, 1, 2, 2, dtype=torch.uint8), [0], ["a"]).files is None
