"""Data sets of the Hugging Face Hub, or in their formats on disk, as `type="hf"` (the extra `hf`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from mtpeft.data.picture_files import part_of
from mtpeft.data.reading import READ_ERRORS, as_rgb, read_picture
from mtpeft.errors import ConfigError, DataError, UnknownNameError
from mtpeft.options import Name, Share, WholeNumber


class HubImages(Dataset[tuple[Image.Image, int]]):
    """N pictures of a table, read by our reader: `targets` are their labels, `classes` the names.

    `paths` are the pictures' files, where they have any. An item is (PIL image, label); raises `DataError` with row or path.
    """

    def __init__(self, table: Any, image: str, targets: Sequence[int], classes: Sequence[str], name: str) -> None:
        self.table = table
        self.image = image
        self.targets = list(targets)
        self.classes = tuple(classes)
        self.name = name

    @property
    def paths(self) -> list[str | None] | None:
        """The file of every picture; None where the table holds them itself."""
        return [(cell or {}).get("path") for cell in self.table[self.image]] if self._in_files else None

    @property
    def _in_files(self) -> bool:
        first = (self.table[0][self.image] if len(self.table) else None) or {}
        return first.get("bytes") is None and bool(first.get("path"))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        cell = self.table[index][self.image]
        if cell is None:
            raise DataError(f"{self.name}, row {index}: {self.image} is empty")
        if cell.get("bytes") is None:
            return read_picture(cell["path"]), self.targets[index]
        where = f"{self.name}, row {index}" + (f" ({cell['path']})" if cell.get("path") else "")
        try:
            with Image.open(io.BytesIO(cell["bytes"])) as picture:
                return as_rgb(picture, where), self.targets[index]
        except READ_ERRORS as error:
            raise DataError(f"{where}: the image cannot be read: {' '.join(str(error).split())}") from error


def hugging_face(
    train: bool,
    path: Name,
    name: str | None = None,
    files: str | dict[str, Any] | tuple[str, ...] | None = None,
    folder: str | None = None,
    revision: str | None = None,
    image: Name = "image",
    label: Name = "label",
    parts: tuple[Name, Name] = ("train", "test"),
    test_share: Share | None = None,
    split_seed: WholeNumber = 0,
    streaming: bool = False,
) -> HubImages:
    """One part of what `datasets` loads, by the columns `image` and `label`; `parts` are the names of its splits.

    `path` is a name on the Hub (with `name`, its configuration, and `revision`), a folder that `save_to_disk` wrote, or a
    builder ("parquet", "imagefolder", ...) with `files` (data_files) or `folder` (data_dir). Without a test split,
    `test_share` of each class of the first, drawn by `split_seed`, is the test part. A label is a ClassLabel, a text or a
    whole number. `streaming` is refused: batches are drawn in any order, and again after a resume.
    """
    if streaming:
        raise ConfigError(
            "data set 'hf': a stream of data cannot be drawn from in any order, nor resumed; leave out data.streaming"
        )
    wanted = parts[0] if train or test_share is not None else parts[1]
    table = _split(_loaded(path, name, files, folder, revision), wanted, path)
    where = f"hf {path}, {wanted}"
    for key, column in (("image", image), ("label", label)):
        if column not in table.features:
            raise UnknownNameError("column", column, table.features, f"{where}, key data.{key}")
    table = table.cast_column(image, _undecoded(table.features[image], f"{where}: column {image!r}"))
    targets, classes = _labels(table, label, where)
    if test_share is not None:
        kept = part_of(targets, test_share, split_seed, train)
        table, targets = table.select(kept), [targets[index] for index in kept]
    return HubImages(table, image, targets, classes, where)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError('type="hf" needs the package datasets: pip install "mtpeft[hf]"') from error
    return datasets


def _loaded(path: str, name: str | None, files: Any, folder: str | None, revision: str | None) -> Any:
    """All splits by name, or the one table that was saved."""
    datasets = _datasets()
    saved = [part for part in ("dataset_dict.json", "state.json") if (Path(path) / part).is_file()]
    own = {
        "name": name,
        "data_files": list(files) if isinstance(files, tuple) else files,
        "data_dir": folder,
        "revision": revision,
    }
    given = {key: value for key, value in own.items() if value is not None}
    if saved and given:
        raise ConfigError(f"hf {path}: it was saved by save_to_disk, so leave out {', '.join(given)}")
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_from_disk(path) if saved else datasets.load_dataset(path, **given)
    except Exception as error:  # whatever network, builder, arrow or file system raise
        reason = " ".join(str(error).split())
        raise DataError(f"hf {path}: cannot be loaded: {type(error).__name__}: {reason[:300]}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _split(loaded: Any, wanted: str, path: str) -> Any:
    if not isinstance(loaded, Mapping):  # one table, saved by itself
        loaded = {str(loaded.split or "train"): loaded}
    if wanted not in loaded:
        raise UnknownNameError("split", wanted, loaded, f"hf {path}, key data.parts (or give data.test_share)")
    return loaded[wanted]


def _undecoded(feature: Any, where: str) -> Any:
    datasets = _datasets()
    if not isinstance(feature, datasets.Image):
        raise DataError(f"{where} is of type {feature}, expected an Image")
    return datasets.Image(decode=False)


def _labels(table: Any, column: str, where: str) -> tuple[list[int], list[str]]:
    """Labels 0.. and the classes' names. Raises `DataError` for a row without a label and one of another type."""
    feature, values = table.features[column], list(table[column])
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, str | int) or (value == -1 and hasattr(feature, "names")):
            raise DataError(f"{where}, row {row}: {column} is {value!r}, expected a class")
    if hasattr(feature, "names"):
        return values, list(feature.names)
    classes = sorted(set(values))
    place = {value: number for number, value in enumerate(classes)}
    return [place[value] for value in values], [str(value) for value in classes]
