"""Miniature trees in the layouts of published data sets, written by the tests: a few tiny images of every class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mtpeft.data.layouts import vtab


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (9, 12)) -> Path:
    """A file of noise; `size` is height and width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(root: Path, classes: int, per_class: int = 1, parts: tuple[str, ...] = ("train", "test")) -> Path:
    """root/PART/CLASS/N.png."""
    for salt, part in enumerate(parts):
        for label in range(classes):
            for number in range(per_class):
                seed = (salt * classes + label) * per_class + number
                picture(root / part / f"n{label:03}" / f"{part}{number}.png", seed)
    return root


def vtab_tree(root: Path, task: str, train: int = 10, test: int = 6) -> Path:
    """One task of VTAB-1k; 8 of 10 training images are in train800.txt."""
    classes = vtab.CLASSES[task]
    lists: dict[str, list[str]] = {name: [] for name in ("train800", "val200", "train800val200", "test")}
    for number in range(train + test):
        part = "train800val200" if number < train else "test"
        line = f"images/{part}/{number:06}.jpg {number % classes}"
        picture(root / task / line.split()[0], number)
        lists[part].append(line)
        if number < train:
            lists["train800" if number < 0.8 * train else "val200"].append(line)
    for name, lines in lists.items():
        (root / task / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def fgvc_tree(root: Path, folder: str, classes: int) -> Path:
    """train.json, val.json and test.json with one image of each class; class numbers have gaps."""
    for salt, part in enumerate(("train", "val", "test")):
        listed = {f"{part}/{label}.jpg": 3 * label + 1 for label in range(classes)}
        for label, path in enumerate(listed):
            picture(root / folder / path, salt * classes + label)
        (root / f"{part}.json").write_text(json.dumps(listed))
    return root


def cub_tree(root: Path, classes: int = 200) -> Path:
    """CUB_200_2011: of every class a training and a test image."""
    lists: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split", "classes")}
    for label in range(1, classes + 1):
        lists["classes"].append(f"{label} {label:03}.Bird_{label}")
        for number in (2 * label - 1, 2 * label):
            path = f"{label:03}.Bird_{label}/{number}.jpg"
            picture(root / "images" / path, number)
            lists["images"].append(f"{number} {path}")
            lists["image_class_labels"].append(f"{number} {label}")
            lists["train_test_split"].append(f"{number} {number % 2}")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def domainnet_tree(
    root: Path, domains: tuple[str, ...] = ("real", "sketch"), classes: tuple[int, ...] = (0, 5)
) -> Path:
    """Lists with paths below root; the last class has no training image in the last domain."""
    for salt, domain in enumerate(domains):
        for part in ("train", "test"):
            lines = []
            for label in classes:
                if part == "train" and domain == domains[-1] and label == classes[-1]:
                    continue
                for number in range(2):
                    path = f"{domain}/thing_{label}/{domain}_{part}_{number}.jpg"
                    picture(root / path, salt * 100 + label * 10 + number + 5 * (part == "test"))
                    lines.append(f"{path} {label}")
            (root / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")
    return root


def core50_tree(root: Path, sessions: tuple[int, ...] = (1, 2, 3, 7, 10), objects: int = 50) -> Path:
    """s1/o1/C_01_01_000.png and so on, one frame of every object in each session."""
    for session in sessions:
        for number in range(1, objects + 1):
            name = f"C_{session:02}_{number:02}_000.png"
            picture(root / f"s{session}" / f"o{number}" / name, session * 100 + number)
    return root


def stream51_tree(root: Path, classes: int = 51) -> Path:
    """The two metadata files and a frame of every class."""
    for part in ("train", "test"):
        entries = []
        for label in range(classes):
            path = f"{part}/{label:03}.jpg"
            picture(root / path, label + 100 * (part == "test"), size=(20, 30))
            box = [20, 10, 12, 2]  # right, left, bottom, top
            entries.append([label, 0, 0, 0, box, path] if part == "train" else [label, box, path])
        (root / f"Stream-51_meta_{part}.json").write_text(json.dumps(entries))
    return root
