"""PASCAL-Context with five tasks, in the folder layout known as PASCAL_MT (Maninis et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtpeft.data.dense.folders import FolderDataset, LabelFiles, each, read_mask, read_normals
from mtpeft.data.dense.registry import DENSE_DATASETS
from mtpeft.data.dense.sample import DenseDataset, TaskInfo
from mtpeft.data.reading import read_values
from mtpeft.errors import DataError

Array = np.ndarray

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
HUMAN_PARTS = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")
PERSON = 15
PART_NAMES = {
    1: ("hair", "head", "lear", "lebrow", "leye", "mouth", "nose", "rear", "rebrow", "reye"),
    2: ("neck", "torso"),
    3: ("luarm", "ruarm"),
    4: ("lhand", "llarm", "rhand", "rlarm"),
    5: ("luleg", "ruleg"),
    6: ("lfoot", "llleg", "rfoot", "rlleg"),
}
"""Parts of PASCAL-Part (Chen et al. 2014) that make each of the six classes of human parts."""
PART_CLASSES = {name: number for number, names in PART_NAMES.items() for name in names}

# Context labels that NYUD-v2 has as well (and tvmonitor): only there were normals distilled from a network that was
# trained on NYUD-v2 (Maninis et al. 2019); elsewhere they do not count.
NORMALS_CLASSES = (
    3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50, 51, 53, 55, 56, 59,
    61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104, 105, 107, 111, 113, 115, 122, 124, 135,
    141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202, 213, 215,
    216, 219, 220, 223, 225, 228, 230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261, 263, 269, 272,
    273, 275, 281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314, 315, 319, 323, 329,
    330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380, 383, 384, 397, 401, 403, 405,
    407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432, 440, 441, 442, 443, 444, 446, 454, 457,
)  # fmt: skip


def _mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(path, simplify_cells=True)
    except MatReadError as error:
        raise DataError(f"{path}: not a readable .mat file: {error}") from error


def _semseg(root: Path, identity: str, path: Path) -> Array:
    return read_values(path).astype(np.int64)


def _human_parts(root: Path, identity: str, path: Path) -> Array | None:
    """The annotated parts of all persons in the image; None when there is none (such an image has no such label)."""
    label: Array | None = None
    for thing in each(_mat(path)["anno"]["objects"]):
        parts = list(each(thing["parts"]))
        if int(thing["class_ind"]) != PERSON or not parts:
            continue
        if label is None:
            label = np.zeros(np.asarray(thing["mask"]).shape, dtype=np.int64)
        for part in parts:
            name = str(part["part_name"])
            if name not in PART_CLASSES:
                raise DataError(f"{path}: unknown human part {name!r}")
            label[np.asarray(part["mask"]).astype(bool)] = PART_CLASSES[name]
    return label


def _normals(root: Path, identity: str, path: Path) -> Array:
    context = root / "pascal-context" / "trainval" / f"{identity}.mat"
    normals, labels = read_normals(root, identity, path), np.asarray(_mat(context)["LabelMap"])
    if labels.shape != normals.shape[:2]:
        raise DataError(f"{context}: LabelMap is {labels.shape}, but {path} {normals.shape[:2]} pixels")
    normals[~np.isin(labels, NORMALS_CLASSES)] = 0
    return normals


def _edges(root: Path, identity: str, path: Path) -> Array:
    """Pixels with another label beside them, thinned to lines one pixel wide."""
    from mtpeft.dense.thinning import thin

    labels = np.asarray(_mat(path)["LabelMap"])
    border = np.zeros(labels.shape, dtype=bool)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = labels[first] != labels[second]
        border[first] |= differs
        border[second] |= differs
    return thin(border).astype(np.uint8)


LABELS = {
    "semseg": LabelFiles(
        TaskInfo("semseg", {"classes": len(CLASSES)}, CLASSES),
        ("semseg/VOC12/{id}.png", "semseg/pascal-context/{id}.png"),
        _semseg,
    ),
    "human_parts": LabelFiles(
        TaskInfo("parts", {"classes": len(HUMAN_PARTS)}, HUMAN_PARTS), ("human_parts/{id}.mat",), _human_parts
    ),
    "saliency": LabelFiles(TaskInfo("saliency"), ("sal_distill/{id}.png",), read_mask),
    "normals": LabelFiles(TaskInfo("normals"), ("normals_distill/{id}.png",), _normals),
    "edges": LabelFiles(TaskInfo("edges"), ("pascal-context/trainval/{id}.mat",), _edges),
}


def pascal_mt(split: str, root: str, tasks: Sequence[str] | None = None, missing: str = "error") -> DenseDataset:
    """PASCAL_MT: `ImageSets/Context/{train,val}.txt`, `JPEGImages/*.jpg`, `semseg/VOC12/*.png` (else
    `semseg/pascal-context/*.png`), `human_parts/*.mat`, `sal_distill/*.png`, `normals_distill/*.png`, and
    `pascal-context/trainval/*.mat` (LabelMap) for edges and for where normals count.

    4 998 training and 5 105 validation images. An image without annotated persons has no human parts label. The axes of
    normals are those of the files; a flip takes the first for x.
    """
    images = ("JPEGImages/{id}.jpg",)
    return FolderDataset("pascal_mt", root, split, f"ImageSets/Context/{split}.txt", images, LABELS, tasks, missing)


DENSE_DATASETS.add("pascal_mt", pascal_mt)
