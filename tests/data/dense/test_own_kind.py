"""Kinds of dense tasks that are registered here and named nowhere else, from labels on disk to results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mtpeft.cli.main import main
from mtpeft.data.dense import DENSE_DATASETS, Sample, TaskInfo
from mtpeft.data.dense.stream import build_dense_stream
from mtpeft.data.dense.transforms import Crop, Flip, Scale
from mtpeft.data.loader import ResumableLoader
from mtpeft.dense.kinds import KINDS, ClassKind, Kind, Layout, Measure, Metric, register_kind
from mtpeft.errors import UnknownNameError
from mtpeft.joint.data import JointData
from mtpeft.joint.experiment import JointExperiment
from mtpeft.runs.folder import RunFolder

MEAN = STD = (0.5, 0.5, 0.5)
CHANGES = [{"name": "flip", "p": 1}, {"name": "scale", "low": 2, "high": 2}, {"name": "crop", "size": 80}]
AREA = 12 * 8


class Distances(Measure):
    """Mean distance in pixels between predicted and true offset."""

    def __init__(self) -> None:
        super().__init__(sums=torch.zeros(2, dtype=torch.float64))

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        far = (output.detach() - label).norm(dim=1)[torch.isfinite(label).all(1)].double()
        self.totals["sums"] += torch.tensor([len(far), far.sum()])

    def compute(self) -> dict[str, float | None]:
        count, far = self.totals["sums"].tolist()
        return {"epe": far / count if count else None}


class CentreOffset(Kind):
    """From each pixel of an object (x, y) to its centre, in pixels; not a number is invalid."""

    layout = Layout(torch.float32, float("nan"), channels=True)
    channels = 2
    metrics: ClassVar = {"epe": Metric("px", False)}

    def valid(self, label: torch.Tensor) -> torch.Tensor:
        return torch.isfinite(label).all(1)

    def pixel_loss(self, output: torch.Tensor, label: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return (output.movedim(1, -1)[valid] - label.movedim(1, -1)[valid]).abs().mean()

    def measure(self) -> Measure:
        return Distances()

    def picture(self, sample: torch.Tensor, reference: torch.Tensor | None = None) -> np.ndarray:
        return np.zeros((*sample.shape[-2:], 3), np.uint8)

    def check(self, label: np.ndarray, where: str) -> None:
        assert label.ndim == 3

    @classmethod
    def flipped(cls, label: np.ndarray) -> np.ndarray:
        return super().flipped(label) * np.float32([-1, 1])

    @classmethod
    def enlarged(cls, label: np.ndarray, factor: float) -> np.ndarray:
        return label * np.float32(factor)


class Material(ClassKind):
    """One of the classes, as little as a kind of classes needs."""

    metrics: ClassVar = {"accuracy": Metric("%", True)}

    def __init__(self, classes: int, metric: str | None = None) -> None:
        super().__init__(metric)
        self.channels = self.num_classes = classes

    def pixel_loss(self, output: torch.Tensor, label: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(output, label, ignore_index=255)

    def picture(self, sample: torch.Tensor, reference: torch.Tensor | None = None) -> np.ndarray:
        return np.zeros((*sample.shape[-2:], 3), np.uint8)

    def measure(self) -> Measure:
        return Hits()


class Hits(Measure):
    """Share of pixels that are right."""

    def __init__(self) -> None:
        super().__init__(sums=torch.zeros(2, dtype=torch.float64))

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        right = (output.argmax(1) == label)[label != 255].double()
        self.totals["sums"] += torch.tensor([len(right), right.sum()])

    def compute(self) -> dict[str, float | None]:
        count, right = self.totals["sums"].tolist()
        return {"accuracy": 100 * right / count if count else None}


class Boxes:
    """Three images of a box of 12 x 8 pixels; the second lacks its offsets."""

    def __init__(self, split: str) -> None:
        names = ("ground", "wood", "metal")
        self.tasks = {"offset": TaskInfo("centre_offset"), "material": TaskInfo("material", {"classes": 3}, names)}

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        image, material = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
        offset = np.full((32, 32, 2), np.nan, np.float32)
        top, left = 3 + 4 * index, 15 - 5 * index
        rows, columns = np.mgrid[top : top + 12, left : left + 8]
        image[rows, columns], material[rows, columns] = 200, 1
        offset[rows, columns] = np.stack([left + 3.5 - columns, top + 5.5 - rows], axis=-1)
        labels = {"material": material} if index == 1 else {"material": material, "offset": offset}
        return Sample(image, labels, f"box {index}")


@pytest.fixture(autouse=True)
def own_kinds() -> Iterator[None]:
    """Registered for one test at a time, so that others see the kinds of the package only."""
    register_kind("centre_offset")(CentreOffset)
    register_kind("material")(Material)
    DENSE_DATASETS.add("boxes", Boxes)
    yield
    for registry, names in ((KINDS, ("centre_offset", "material")), (DENSE_DATASETS, ("boxes",))):
        for name in names:
            registry.discard(name)


def stream_of(*tasks: str) -> Any:
    config = {"data": {"name": "boxes"}, "tasks": list(tasks), "head": {"name": "dense_linear"}}
    return build_dense_stream({**config, "transforms": {"train": CHANGES}}, {"mean": MEAN, "std": STD})


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_turn_and_grow_with_the_image(workers: int) -> None:
    """Mirrored, twice as large and padded, the offsets of a box still meet in its centre, to the pixel."""
    (task,) = stream_of("offset")
    images, labels = next(iter(ResumableLoader(task.train, 3, 0, 0, shuffle=False, num_workers=workers)))
    assert images.shape == (3, 3, 80, 80) and labels.shape == (3, 2, 80, 80) and labels.dtype == torch.float32
    valid = task.kind.valid(labels)
    assert valid.sum((1, 2)).tolist() == [4 * AREA, 0, 4 * AREA], "padding and the missing label are invalid"
    bright = images[:, 0] * STD[0] + MEAN[0] > 0.5 * 200 / 255
    assert torch.equal(valid[0], bright[0]) and torch.equal(valid[2], bright[2])
    for offset, box in ((labels[0], valid[0]), (labels[2], valid[2])):
        places = box.nonzero().flip(1).float()
        ends = places + offset.movedim(0, -1)[box]
        assert (ends - places.mean(0)).abs().max() == 0.5


def test_both_engines_give_the_same_labels_to_loss_and_measure() -> None:
    (task,) = stream_of("offset")
    labels = next(iter(ResumableLoader(task.train, 3, 0, 0, shuffle=False)))[1]
    data = JointData({"name": "boxes"}, {"offset": {}, "material": {}}, {"train": CHANGES}, 0, MEAN, STD)
    (batch,) = data.batches("train", 0, [0, 1, 2], 3)
    rows, found = batch["labels"]["offset"]
    assert rows.tolist() == [0, 2] and torch.equal(found.nan_to_num(99), labels[rows].nan_to_num(99))
    rows, classes = batch["labels"]["material"]
    assert rows.tolist() == [0, 1, 2] and classes.dtype == torch.int64
    assert [(classes == value).sum().item() for value in (0, 1, 255)] == [3 * (4096 - 4 * AREA), 12 * AREA, 3 * 2304]

    output = labels.nan_to_num(0) + torch.tensor([3.0, 4.0])[:, None, None]
    measure = task.kind.measure()
    measure.update(output, labels)
    assert measure.compute()["epe"] == pytest.approx(5) and task.kind.unit == "px"
    assert task.kind.loss(output, labels).item() == pytest.approx(3.5)


def test_a_joint_run_is_measured_and_weighted_by_what_the_kinds_say(tmp_path: Path) -> None:
    recipe = {
        "name": "boxes",
        "backbone": {"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 1, "patch_size": 8}},
        "method": "linear_probe",
        "data": {"name": "boxes"},
        "transforms": {"train": [*CHANGES[:2], {"name": "crop", "size": 32}]},
        "head": {"name": "dense_linear"},
        "tasks": {"offset": {}, "material": {"options": {"classes": 4}}},
        "weighting": {"name": "uncertainty"},
        "training": {"steps": 2, "batch_size": 3},
        "pictures": 0,
        "gradient_conflict": 0,
    }
    experiment = JointExperiment(recipe)
    assert experiment.model.weighting.discrete == {"material"}
    assert experiment.model.kinds["material"].channels == 4, "the recipe's options hold over the data set's"
    results = experiment.run(RunFolder(tmp_path, recipe))
    assert results is not None
    final = results["final"]
    assert final["offset"]["epe"] > 0 and 0 <= final["material"]["accuracy"] <= 100


def test_check_data_counts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = {}
    for label, kind in (("offset", "centre_offset"), ("material", "material")):
        file = tmp_path / f"{label}.py"
        file.write_text(f'task = dict(data=dict(name="boxes"), label="{label}", kind="{kind}")\n')
        assert main(["check-data", str(file)]) == 0
        lines = capsys.readouterr().out.splitlines()
        cells = [[cell.strip() for cell in line.strip(" │").split("│")] for line in lines if "│" in line]
        printed[label] = {name: pixels for name, pixels, *_ in cells}, lines
    rows, lines = printed["offset"]
    assert rows == {"valid": f"{2 * AREA}", "ignored or invalid": f"{2 * (1024 - AREA):,}"}
    assert not any("absent" in line for line in lines)
    rows, lines = printed["material"]
    counts = {"0 ground": f"{3 * (1024 - AREA):,}", "1 wood": f"{3 * AREA}", "2 metal": "0", "ignored or invalid": "0"}
    assert rows == counts and "absent classes: 2 metal" in lines


@pytest.mark.parametrize("change", [Flip(p=1), Scale(), Crop(size=8)])
def test_an_unknown_kind_is_named_with_its_task(change: Any) -> None:
    message = r"^unknown task kind 'centre_ofset' \(task 'offset'\)\. Did you mean 'centre_offset'\?$"
    with pytest.raises(UnknownNameError, match=message):
        change(Boxes("train")[0], {"offset": "centre_ofset", "material": "material"}, np.random.default_rng(0))
