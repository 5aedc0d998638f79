"""NYUD-v2 with four tasks (Silberman et al. 2012), in the folder layout of the published multi-task loaders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtpeft.data.dense.folders import FolderDataset, LabelFiles, lowered, read_mask, read_normals
from mtpeft.data.dense.registry import DENSE_DATASETS
from mtpeft.data.dense.sample import DenseDataset, TaskInfo
from mtpeft.data.reading import read_values

Array = np.ndarray

# The 40 classes of Gupta, Arbelaez and Malik (2013).
CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat",
    "clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard",
    "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "other structure", "other furniture", "other prop",
)  # fmt: skip


def _semseg(root: Path, identity: str, path: Path) -> Array:
    """Stored 0 is unlabelled, 1 to 40 the classes."""
    return lowered(read_values(path))


def _depth(root: Path, identity: str, path: Path) -> Array:
    values = read_values(path)
    return values.reshape(values.shape[:2]).astype(np.float32)


LABELS = {
    "semseg": LabelFiles(TaskInfo("semseg", {"classes": len(CLASSES)}, CLASSES), ("segmentation/{id}.png",), _semseg),
    "depth": LabelFiles(TaskInfo("depth"), ("depth/{id}.npy",), _depth),
    "normals": LabelFiles(TaskInfo("normals"), ("normals/{id}.npy", "normals/{id}.png"), read_normals),
    "edges": LabelFiles(TaskInfo("edges", {"max_distance": 0.011}), ("edge/{id}.npy", "edge/{id}.png"), read_mask),
}


def nyud_mt(split: str, root: str, tasks: Sequence[str] | None = None, missing: str = "error") -> DenseDataset:
    """NYUD_MT: `gt_sets/{train,val}.txt`, `images/*.jpg` (or .png), `segmentation/*.png`, `depth/*.npy` in metres,
    `normals/*.npy` (or .png) and `edge/*.npy` (or .png).

    Both published versions are read, the one with .npy files and the later one with .png files. 795 training and 654
    validation images. The axes of normals are those of the files; a flip takes the first for x.
    """
    images = ("images/{id}.jpg", "images/{id}.png")
    return FolderDataset("nyud_mt", root, split, f"gt_sets/{split}.txt", images, LABELS, tasks, missing)


DENSE_DATASETS.add("nyud_mt", nyud_mt)
