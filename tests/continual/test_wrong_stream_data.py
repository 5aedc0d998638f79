"""Wrong labels stop a continual run with one line; last batches of one image; grey and coloured data in one memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipe import make_recipe
from small_runs import train
from tiles import Tiles, changed_stream, make_dense

from mtpeft.continual.experiment import Experiment
from mtpeft.data.dense import DENSE_DATASETS, Sample
from mtpeft.data.sources import register_dataset
from mtpeft.errors import ConfigError, DataError

FAULTS: dict[str, tuple[str, Any, str]] = {
    "colours": ("semseg", np.zeros((32, 32, 3), np.uint8), r"label has shape \(32, 32, 3\).*not a colour"),
    "class": ("semseg", np.full((32, 32), 9), "values 9 are out of range: 0 to 2"),
    "nan": ("normals", np.full((32, 32, 3), np.nan, np.float32), "not finite"),
    "whole numbers": ("depth", np.full((32, 32), 2), "the depth is int64"),
}


class FaultyTiles(Tiles):
    """`Tiles` whose sample `at` has a wrong label."""

    def __init__(self, split: str, fault: str, at: int = 5) -> None:
        super().__init__(split)
        self.fault, self.at = fault, at

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        task, label, _ = FAULTS[self.fault]
        if self.split == "train" and index == self.at:
            sample.labels[task] = label
        return sample


if "faulty_tiles" not in DENSE_DATASETS:
    DENSE_DATASETS.add("faulty_tiles", FaultyTiles)


def faulty(fault: str, at: int = 5, workers: int = 0) -> dict[str, Any]:
    data = {"name": "faulty_tiles", "fault": fault, "at": at}
    training = {"epochs": 1, "batch_size": 4, "workers": workers}
    return make_dense(stream=changed_stream(data=data, tasks=[FAULTS[fault][0]]), training=training)


@pytest.mark.parametrize(("fault", "workers"), [*((fault, 0) for fault in FAULTS), ("class", 1)])
def test_a_wrong_label_is_named_in_a_line(fault: str, workers: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"train 5: .*{FAULTS[fault][2]}") as caught:
        train(faulty(fault, workers=workers), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_wrong_first_label_is_named_before_anything_is_trained() -> None:
    with pytest.raises(DataError, match=r"train 0: .*out of range"):
        Experiment(faulty("class", at=0))


# batch norm ----------------------------------------------------------------------------------------------------------

DEEPER = {"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 4, "patch_size": 8}}


def uper(length: int, batch_size: int = 4, **head: Any) -> dict[str, Any]:
    """Segmentation with a head that pools to 1 x 1 before batch norm."""
    stream = changed_stream(
        data={"name": "tiles", "length": length},
        tasks=["semseg"],
        head={"name": "uper", "embed_dim": 8, **head},
    )
    return make_dense(stream=stream, backbone=DEEPER, training={"epochs": 2, "batch_size": batch_size})


def test_a_last_batch_of_one_image_is_joined_to_the_one_before(tmp_path: Path) -> None:
    whole, results = train(uper(9), tmp_path / "whole")
    assert results is not None and whole.strategy.needs_two == [True]
    assert whole.strategy.epoch_batches(0) == 2 and whole.strategy.clock.train_iterations == 4
    log = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert any(line["event"] == "joined" for line in log)
    train(uper(9), tmp_path / "killed", kill_at=3)
    _, again = train(uper(9), tmp_path / "killed")
    assert again is not None and again["matrix"]["values"] == results["matrix"]["values"]


def test_batches_are_as_they_were_where_nothing_needs_two_images() -> None:
    group = {"norm_cfg": {"type": "GN", "num_groups": 2}}
    for recipe in (uper(9, **group), make_dense(stream=changed_stream(data={"name": "tiles", "length": 9}))):
        experiment = Experiment(recipe)
        assert not any(experiment.strategy.needs_two) and experiment.strategy.epoch_batches(0) == 3


def test_one_image_alone_is_refused_where_batch_norm_cannot_train_on_it() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size is 1, too few for batch norm '.*': give it two"):
        Experiment(uper(9, batch_size=1))
    with pytest.raises(DataError, match="'semseg' has one training image, too few for batch norm"):
        Experiment(uper(1))


# images of one channel and of three ----------------------------------------------------------------------------------


@register_dataset("coloured")
def _coloured(train: bool) -> Any:
    class Coloured:
        classes = ("warm", "cold")
        targets = [i % 2 for i in range(20)]  # noqa: RUF012

        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> tuple[Any, int]:
            rng = np.random.default_rng((index, train))
            pixels = rng.integers(0, 60, (10, 10, 3), dtype=np.uint8)
            pixels[..., 2 * (index % 2)] += 150
            return Image.fromarray(pixels), index % 2

    return Coloured()


@pytest.mark.parametrize("order", [("digits", "coloured"), ("coloured", "digits")])
@pytest.mark.parametrize(
    "plugin",
    [
        {"type": "ReplayPlugin", "mem_size": 12},
        {"type": "AGEMPlugin", "patterns_per_experience": 8, "sample_size": 8},
    ],
)
def test_grey_and_coloured_data_sets_share_a_memory(
    plugin: dict[str, Any], order: tuple[str, ...], tmp_path: Path
) -> None:
    tasks = {
        "digits": {"data": {"type": "Digits"}, "classes": ["3", "7"], "train_per_class": 10, "test_per_class": 5},
        "coloured": {"data": {"type": "coloured"}},
    }
    stream = {"type": "task_incremental", "tasks": {name: tasks[name] for name in order}}
    training = {"epochs": 1, "batch_size": 8}
    _, results = train(make_recipe(stream=stream, plugins=[plugin], training=training), tmp_path / "run")
    assert results is not None and np.isfinite(results["matrix"]["values"]).all()


def test_domains_whose_labels_do_not_begin_at_0_are_trained(tmp_path: Path) -> None:
    @register_dataset("late-labels")
    def late(train: bool) -> Any:
        from mtpeft.data.digits import Digits

        digits = Digits(train=train)
        chosen = [i for i, label in enumerate(digits.targets) if label in (4, 9)][: 40 if train else 20]
        digits.data, digits.targets = digits.data[chosen], [digits.targets[i] for i in chosen]
        return digits

    domains = [{"type": "none"}, {"type": "contrast", "factor": 0.5}]
    stream = {"type": "domain_incremental", "data": {"type": "late-labels"}, "domains": domains}
    experiment, results = train(make_recipe(stream=stream), tmp_path / "run")
    assert results is not None and [task["classes"] for task in results["tasks"]] == [[4, 9], [4, 9]]
    assert experiment.manager(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
