"""Semantic segmentation data sets of mmsegmentation: its classes list the files, the samples are ours.

COCO's panoptic annotations, which mmsegmentation has no class for, are read the same way as semantic classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtpeft.data.dense.folders import lowered, report_missing
from mtpeft.data.dense.registry import DENSE_DATASETS
from mtpeft.data.dense.sample import DenseDataset, Sample, TaskInfo
from mtpeft.data.reading import READ_ERRORS, read_image, read_values
from mtpeft.errors import ConfigError, DataError

Array = np.ndarray
Read = Callable[[Path], Array]


class SegmentationDataset:
    """One task, `semseg`: integer (H, W), 255 ignored. `entries` are mmsegmentation's data infos."""

    def __init__(
        self, name: str, entries: Sequence[Mapping[str, Any]], classes: Sequence[str], read: Read, missing: str
    ) -> None:
        """`missing` is "error", or "skip" to leave out labels whose file is missing."""
        if missing not in ("error", "skip"):
            raise ConfigError(f"data set {name!r}: missing is {missing!r}, expected 'error' or 'skip'")
        self.name, self.classes, self._read = name, tuple(classes), read
        self.tasks = {"semseg": TaskInfo("semseg", {"classes": len(classes)}, self.classes)}
        self.images = [Path(entry["img_path"]) for entry in entries]
        self.files = [Path(entry["seg_map_path"]) for entry in entries]
        absent = [path for path in self.files if not path.is_file()]
        self.missing_files = {"semseg": absent}
        self._absent = set(absent)
        if missing == "error":
            report_missing(name, len(self.images), self.missing_files)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        file, labels = self.files[index], {}
        if file not in self._absent:
            try:
                labels["semseg"] = self._read(file)
            except READ_ERRORS as error:
                raise DataError(f"{file}: the label cannot be read: {' '.join(str(error).split())}") from error
        return Sample(read_image(self.images[index]), labels, str(self.images[index]))

    def label_file(self, task: str, index: int) -> Path | None:
        """The file a label comes from."""
        return None if self.files[index] in self._absent else self.files[index]


def read_classes(path: Path, reduce_zero_label: bool = False) -> Array:
    """Class numbers of an image file; with `reduce_zero_label` 0 is ignored and 1 becomes class 0."""
    stored = read_values(path)
    return lowered(stored, (0, 255)) if reduce_zero_label else stored.astype(np.int64)


def _index(name: str, kind: str, root: str, image: str, label: str, list_file: str = "", **options: Any) -> Any:
    """An instance of a data set class of mmsegmentation, without a pipeline. Paths are below `root`."""
    from mtpeft.heads.mmlab import mmseg

    folder = Path(root).expanduser()
    for part in (image, list_file):
        if part and not (folder / part).exists():
            raise DataError(f"data set {name!r}: {folder / part} is missing; is data.root ({folder}) the right folder?")
    dataset = getattr(mmseg("mmseg.datasets"), kind)(
        data_root=str(folder),
        data_prefix={"img_path": image, "seg_map_path": label},
        ann_file=list_file,
        serialize_data=False,
        **options,
    )
    if not len(dataset):
        raise DataError(f"data set {name!r}: no image of this split below {folder / image}")
    return dataset


def _from_mmseg(name: str, dataset: Any, missing: str) -> SegmentationDataset:
    entries = [dataset.get_data_info(index) for index in range(len(dataset))]

    def read(path: Path) -> Array:
        return read_classes(path, bool(dataset.reduce_zero_label))

    return SegmentationDataset(name, entries, dataset.metainfo["classes"], read, missing)


def cityscapes(split: str, root: str, missing: str = "error") -> DenseDataset:
    """Cityscapes (Cordts et al. 2016), 19 classes: `leftImg8bit/{split}/CITY`, `gtFine/{split}/CITY/*_labelTrainIds.png`."""
    index = _index("cityscapes", "CityscapesDataset", root, f"leftImg8bit/{split}", f"gtFine/{split}")
    return _from_mmseg("cityscapes", index, missing)


def ade20k(split: str, root: str, missing: str = "error") -> DenseDataset:
    """ADE20K (Zhou et al. 2017), 150 classes: `images/training`, `annotations/training`, and the same of validation."""
    part = {"train": "training", "val": "validation"}[split]
    index = _index("ade20k", "ADE20KDataset", root, f"images/{part}", f"annotations/{part}")
    return _from_mmseg("ade20k", index, missing)


def voc2012(split: str, root: str, missing: str = "error") -> DenseDataset:
    """PASCAL VOC 2012, 21 classes: `ImageSets/Segmentation/{split}.txt`, `JPEGImages`, `SegmentationClass`."""
    names = f"ImageSets/Segmentation/{split}.txt"
    index = _index("voc2012", "PascalVOCDataset", root, "JPEGImages", "SegmentationClass", names)
    return _from_mmseg("voc2012", index, missing)


def coco_stuff(split: str, root: str, missing: str = "error") -> DenseDataset:
    """COCO-Stuff 164k (Caesar et al. 2018), 171 classes: `images/{split}2017`, `annotations/{split}2017/*_labelTrainIds.png`."""
    index = _index("coco_stuff", "COCOStuffDataset", root, f"images/{split}2017", f"annotations/{split}2017")
    return _from_mmseg("coco_stuff", index, missing)


def coco_panoptic(split: str, root: str, missing: str = "error") -> DenseDataset:
    """COCO panoptic (Kirillov et al. 2019) as 133 semantic classes: `{split}2017/*.jpg`,
    `annotations/panoptic_{split}2017.json` and `annotations/panoptic_{split}2017/*.png`.

    A segment's number is R + 256 G + 256^2 B of its colour; 0 is unlabelled. Classes are the categories of the JSON
    file in the order of their numbers.
    """
    name, folder = "coco_panoptic", Path(root).expanduser()
    annotations = f"annotations/panoptic_{split}2017"
    index = _index(name, "BaseSegDataset", root, f"{split}2017", annotations, metainfo={"classes": ()})
    path = folder / f"{annotations}.json"
    try:
        content = json.loads(path.read_text())
        categories = sorted(content["categories"], key=lambda category: category["id"])
        number = {category["id"]: position for position, category in enumerate(categories)}
        segments = {
            Path(entry["file_name"]).stem: {s["id"]: number[s["category_id"]] for s in entry["segments_info"]}
            for entry in content["annotations"]
        }
    except READ_ERRORS as error:
        raise DataError(f"{path}: the panoptic annotations cannot be read: {' '.join(str(error).split())}") from error

    def read(png: Path) -> Array:
        return read_panoptic(png, segments[png.stem])

    entries = [index.get_data_info(i) for i in range(len(index))]
    return SegmentationDataset(name, entries, [category["name"] for category in categories], read, missing)


def read_panoptic(path: Path, segments: Mapping[int, int]) -> Array:
    """Classes (H, W) of a panoptic image, whose `segments` map numbers to classes. Raises `DataError` for others."""
    colours = read_values(path)
    if colours.ndim != 3 or colours.shape[2] not in (3, 4):
        raise DataError(f"{path}: the panoptic label has shape {colours.shape}, not (H, W, 3)")
    colours = colours[..., :3].astype(np.int64)
    numbers = colours @ np.array([1, 256, 256**2])
    present, place = np.unique(numbers, return_inverse=True)
    unknown = [int(n) for n in present if n and int(n) not in segments]
    if unknown:
        raise DataError(f"{path}: segment {unknown[0]} is not in the JSON file")
    classes = np.array([segments[int(n)] if n else 255 for n in present])
    return classes[place.reshape(numbers.shape)]


for _factory in (cityscapes, ade20k, voc2012, coco_stuff, coco_panoptic):
    DENSE_DATASETS.add(_factory.__name__, _factory)
