"""From samples to batches of tensors."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mtpeft.data.dense import DenseDataset, Sample, TaskInfo
from mtpeft.data.dense.batch import DenseView, collate
from mtpeft.data.dense.transforms import build_transforms
from mtpeft.data.loader import ResumableLoader
from mtpeft.errors import DataError, UnknownNameError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
CHANGES = [{"name": "flip"}, {"name": "scale"}, {"name": "crop", "size": 32}, {"name": "photometric"}]


class Partial:
    """Three samples with the labels of different tasks."""

    tasks: ClassVar = {"depth": TaskInfo("depth"), "semseg": TaskInfo("semseg", {"classes": 3})}
    wrong: ClassVar[dict[str, Any]] = {}

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        labels: dict[str, np.ndarray] = {"depth": np.full((4, 6), index + 1.0, dtype=np.float32)} if index else {}
        if index != 1:
            labels["semseg"] = np.full((4, 6), index, dtype=np.uint8)
        return Sample(np.zeros((4, 6, 3), dtype=np.uint8), {**labels, **self.wrong}, f"image {index}")


def view(dataset: DenseDataset, changes: list[dict[str, Any]] = CHANGES, seed: int = 0) -> DenseView:
    return DenseView(dataset, build_transforms(changes), seed=seed, mean=MEAN, std=STD)


def test_tensors_have_the_promised_types(scenes: DenseDataset) -> None:
    item = view(scenes)[3]
    assert item["image"].shape == (3, 32, 32) and item["image"].dtype == torch.float32
    expected = {
        "semseg": ((32, 32), torch.int64),
        "parts": ((32, 32), torch.int64),
        "saliency": ((32, 32), torch.uint8),
        "edges": ((32, 32), torch.uint8),
        "depth": ((1, 32, 32), torch.float32),
        "normals": ((3, 32, 32), torch.float32),
        "distance": ((1, 32, 32), torch.float32),
    }
    assert {task: (tuple(t.shape), t.dtype) for task, t in item["labels"].items()} == expected
    assert item["index"] == 3 and "3" in item["name"]


def test_images_are_normalised(scenes: DenseDataset) -> None:
    pixels = scenes[0].image.astype(np.float32).transpose(2, 0, 1) / 255
    expected = (pixels - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(view(scenes, [])[0]["image"].numpy(), expected, atol=1e-5)


def test_an_item_depends_on_seed_epoch_and_index_alone(scenes: DenseDataset) -> None:
    def drawn(seed: int, epoch: int, order: list[int]) -> dict[int, torch.Tensor]:
        data = view(scenes, seed=seed)
        data.set_epoch(epoch)
        return {i: data[i]["image"] for i in order}

    first, other_order = drawn(5, 2, [0, 1, 2, 3]), drawn(5, 2, [3, 1])
    assert all(torch.equal(first[i], other_order[i]) for i in (1, 3))
    for seed, epoch in ((5, 3), (6, 2)):
        assert not torch.equal(first[1], drawn(seed, epoch, [1])[1])


def test_resumed_loading_gives_the_same_batches(scenes: DenseDataset) -> None:
    whole = list(ResumableLoader(view(scenes), batch_size=5, seed=1, epoch=0))
    rest = list(ResumableLoader(view(scenes), batch_size=5, seed=1, epoch=0, start=1, num_workers=1))
    assert [len(batch["names"]) for batch in whole] == [5, 5, 2]
    for batch, again in zip(whole[1:], rest, strict=True):
        assert torch.equal(batch["images"], again["images"]) and torch.equal(batch["index"], again["index"])
        for task, (rows, labels) in batch["labels"].items():
            assert torch.equal(rows, again["labels"][task][0]) and torch.equal(labels, again["labels"][task][1])


def test_collate_keeps_which_images_have_a_label() -> None:
    data = view(Partial(), [])
    batch = collate([data[2], data[0], data[1]])
    assert batch["images"].shape == (3, 3, 4, 6)
    assert batch["index"].tolist() == [2, 0, 1] and batch["names"] == ["image 2", "image 0", "image 1"]
    rows, depth = batch["labels"]["depth"]
    assert rows.tolist() == [0, 2] and depth.shape == (2, 1, 4, 6) and depth[:, 0, 0, 0].tolist() == [3, 2]
    rows, classes = batch["labels"]["semseg"]
    assert rows.tolist() == [0, 1] and classes[:, 0, 0].tolist() == [2, 0]
    assert "depth" not in collate([data[0]])["labels"]


def test_only_the_chosen_tasks_are_given() -> None:
    data = DenseView(Partial(), None, seed=0, mean=MEAN, std=STD, tasks=["depth"])
    assert set(data[2]["labels"]) == {"depth"} and data[0]["labels"] == {}


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = view(Partial(), [])
    with pytest.raises(DataError, match="image 1 is 4 x 6, image 0 2 x 2; end the transforms"):
        collate([data[1], {**data[0], "image": torch.zeros(3, 2, 2), "size": (2, 2)}])
    monkeypatch.setattr(Partial, "wrong", {"depth": np.ones((4, 5), dtype=np.float32)})
    with pytest.raises(DataError, match="image 1: label 'depth' is 4 x 5 pixels, its image 4 x 6"):
        data[1]
    monkeypatch.setattr(Partial, "tasks", {"depth": TaskInfo("depht")})
    with pytest.raises(UnknownNameError, match=r"'depht' \(task 'depth'\)\. Did you mean 'depth'"):
        view(Partial(), [])
