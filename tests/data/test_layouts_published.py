"""The published layouts, on miniature trees; a wrong one is one line that says what was expected where."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trees
from PIL import Image

from mtpeft.data.labelled import build_labelled_parts
from mtpeft.data.layouts import LAYOUTS, cub, domains, fgvc, folders, stream51, vtab
from mtpeft.data.sources import build_dataset
from mtpeft.data.splits import common_classes
from mtpeft.errors import ConfigError, DataError, MtpeftError

CONFIG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def small_fgvc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fgvc.CLASSES, "cub", 3)
    monkeypatch.setitem(fgvc.CLASSES, "cars", 3)


def small_cub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cub, "CLASSES", 4)


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree has as many classes as the data set."""


Tree = Callable[[Path], Path]
CASES: dict[str, tuple[Tree, dict[str, Any], int, int, Callable[[pytest.MonkeyPatch], None]]] = {
    "VTAB": (lambda root: trees.vtab_tree(root, "sun397"), {"task": "sun397"}, 10, 6, nothing),
    "VTAB select": (lambda root: trees.vtab_tree(root, "kitti"), {"task": "kitti", "select": True}, 8, 2, nothing),
    "FGVC": (lambda root: trees.fgvc_tree(root, "images", 3), {"task": "cub"}, 3, 3, small_fgvc),
    "FGVC flat": (lambda root: trees.fgvc_tree(root, "", 3), {"task": "cars", "select": True}, 3, 3, small_fgvc),
    "CUB200": (lambda root: trees.cub_tree(root, 4), {}, 4, 4, small_cub),
    "DomainNet": (trees.domainnet_tree, {"domains": "real"}, 4, 4, nothing),
    "DomainNet joined": (trees.domainnet_tree, {"domains": ["real", "sketch"]}, 6, 8, nothing),
    "CORe50": (trees.core50_tree, {"sessions": [1, 2]}, 100, 150, nothing),
    "CORe50 categories": (trees.core50_tree, {"sessions": [1], "labels": "category"}, 50, 150, nothing),
    "Stream51": (trees.stream51_tree, {}, 51, 51, nothing),
    "VTAB50": (lambda root: trees.class_folders(root, 50, 2), {}, 100, 100, nothing),
}


@pytest.mark.parametrize("case", CASES)
def test_both_parts_of_every_layout(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, options, trained, tested, prepare = CASES[case]
    prepare(monkeypatch)
    data = {"type": case.split()[0], "root": str(tree(tmp_path)), **options}
    train, test = build_labelled_parts(data, CONFIG, None)
    assert (len(train), len(test)) == (trained, tested)
    assert train.batch([0])[0].shape == (1, 3, 8, 8)
    kept = common_classes(train, test)
    assert len(kept) == LAYOUTS[data["type"]].classes(data)
    assert not set(train.files) & set(test.files)  # type: ignore[attr-defined]


def test_every_layout_is_tested_here() -> None:
    tested = {case.split()[0] for case in CASES} | set(folders.CLASSES)
    assert tested == set(LAYOUTS)
    assert len(vtab.CLASSES) == 19 and len(fgvc.CLASSES) == 5 and len(domains.DOMAINS) == 6


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_folder_that_is_another(kind: str, tmp_path: Path) -> None:
    options = {"VTAB": {"task": "svhn"}, "FGVC": {"task": "dogs"}}.get(kind, {})
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="; expected ") as caught:
            build_dataset({"type": kind, "root": str(root), **options})
        assert "\n" not in str(caught.value) and str(root) in str(caught.value)


def test_wrong_trees_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kind: str, root: Path, **options: Any) -> str:
        with pytest.raises(MtpeftError) as caught:
            build_dataset({"type": kind, "root": str(root), **options})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    root = trees.vtab_tree(tmp_path / "vtab", "kitti")
    file = root / "kitti" / "train800val200.txt"
    lines = file.read_text()
    file.write_text(lines + "images/train800val200/000001.jpg 4\n")
    assert "train800val200.txt, line 11: label 4, expected a path and a label of 0 to 3" in refused(
        "VTAB", root, task="kitti"
    )
    file.write_text(lines + "images/train800val200/000001.jpg\n")
    assert "line 11" in refused("VTAB", root, task="kitti")
    file.write_text(lines)
    gone = root / "kitti" / "images" / "train800val200" / "000003.jpg"
    gone.unlink()
    assert f"a file is not there, first {gone}" in refused("VTAB", root, task="kitti")
    assert "expected one of cifar" in refused("VTAB", root, task="kiti").replace("'", "")
    assert "select is 1" in refused("VTAB", root, task="kitti", select=1)
    folders_root = trees.class_folders(tmp_path / "r", 3)
    assert "3 folders in it, expected 200, one per class" in refused("ImageNetR", folders_root)
    birds = trees.fgvc_tree(tmp_path / "cub", "images", 3)
    assert "3 classes in it, expected the 200 of cub" in refused("FGVC", birds, task="cub")
    (birds / "train.json").write_text("{")
    assert "cannot be read as JSON" in refused("FGVC", birds, task="cub")
    assert "none of the test sessions" in refused("CORe50", tmp_path, sessions=[3])
    assert "expected each domain once" in refused("DomainNet", tmp_path, domains=["real", "real"])
    meta = trees.stream51_tree(tmp_path / "s51", 1)
    (meta / "Stream-51_meta_train.json").write_text("[[60, [1, 0, 1, 0], 'x']]".replace("'", '"'))
    assert "entry 0: [60" in refused("Stream51", meta)
    monkeypatch.setattr(cub, "CLASSES", 4)
    labels = trees.cub_tree(tmp_path / "c", 4) / "image_class_labels.txt"
    labels.write_text(labels.read_text() + "9 1\n")
    assert "image_class_labels.txt and images.txt differ in their ids" in refused("CUB200", tmp_path / "c")


def test_a_frame_is_cut_to_its_enlarged_box(tmp_path: Path) -> None:
    root = trees.stream51_tree(tmp_path, 1)
    whole = np.asarray(Image.open(root / "train/000.jpg"))
    own = build_dataset({"type": "Stream51", "root": str(root), "box_scale": 1.0})
    assert (np.asarray(own[0][0]) == whole[2:12, 10:20]).all()
    wide = build_dataset({"type": "Stream51", "root": str(root), "box_scale": 2.0})
    assert (np.asarray(wide[0][0]) == whole[:17, 5:25]).all()  # what lies outside is cut off
    assert build_dataset({"type": "Stream51", "root": str(root), "box_scale": None})[0][0].size == (30, 20)
    assert len(stream51.stream51(False, str(root))) == 1


def test_damaged_images_are_named(tmp_path: Path) -> None:
    root = trees.vtab_tree(tmp_path, "svhn")
    bad = root / "svhn/images/train800val200/000000.jpg"
    bad.write_bytes(b"no image")
    train, _ = build_labelled_parts({"type": "VTAB", "root": str(root), "task": "svhn"}, CONFIG)
    with pytest.raises(DataError, match=str(bad)):
        train.batch([0])


@pytest.mark.parametrize("kind", [*LAYOUTS, "torchvision.CIFAR100"])
def test_made_up_images_have_the_published_classes(kind: str) -> None:
    options = {"VTAB": {"task": "svhn"}, "FGVC": {"task": "dogs"}}.get(kind, {})
    data = {"type": kind, "root": "/not/there", "generated": 2, **options}
    train, test = build_labelled_parts(data, CONFIG)
    number = 100 if kind.startswith("torch") else LAYOUTS[kind].classes(options)
    assert len(train) == len(test) == 2 * number == 2 * len(common_classes(train, test))
    assert not train.batch([0])[0].equal(test.batch([0])[0])
    with pytest.raises(ConfigError, match="generated is -1"):
        build_dataset({**data, "generated": -1})


def test_what_cannot_be_made_up() -> None:
    with pytest.raises(ConfigError, match="takes no argument 'generated'"):
        build_dataset({"type": "ImageFolder", "root": "x", "generated": 1})
    with pytest.raises(ConfigError, match="task is 'bird'"):
        build_dataset({"type": "FGVC", "root": "x", "task": "bird", "generated": 1})


def test_cifar100_as_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickled batches, whose checksums torchvision knows; labels are the places of the fine names."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"thing {label}" for label in range(100)]
    for seed, part in enumerate(("train", "test")):
        pixels = np.random.default_rng(seed).integers(0, 256, (100, 3072), dtype=np.uint8)
        (folder / part).write_bytes(pickle.dumps({"data": pixels, "fine_labels": list(range(100))}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    data = {"type": "torchvision.CIFAR100", "root": str(tmp_path)}
    with pytest.raises(DataError, match="CIFAR100"):
        build_labelled_parts(data, CONFIG)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    train, test = build_labelled_parts(data, CONFIG)
    assert (len(train), len(test), train.classes[7]) == (100, 100, "thing 7")
