"""Wrong labels stop a joint run with one line that names the sample, also out of a worker; batches of one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from squares import Squares, make_recipe, train

from mtpeft.data.dense import DENSE_DATASETS, Sample
from mtpeft.errors import ConfigError, DataError, UnknownNameError
from mtpeft.joint.data import StepLoader, build_loader
from mtpeft.joint.experiment import JointExperiment
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress

FAULTS: dict[str, tuple[str, Any, str]] = {
    "colours": ("semseg", np.zeros((32, 32, 3), np.uint8), r"label has shape \(32, 32, 3\).*not a colour"),
    "class": ("semseg", np.full((32, 32), 9), "values 9 are out of range: 0 to 2"),
    "floats": ("semseg", np.zeros((32, 32)), "float64; it must be of whole numbers"),
    "channels": ("normals", np.zeros((32, 32), np.float32), r"not \(H, W, 3\)"),
    "nan": ("normals", np.full((32, 32, 3), np.nan, np.float32), "not finite"),
    "length": ("normals", np.full((32, 32, 3), 100, np.float32), "has length 173.2"),
    "whole numbers": ("depth", np.full((32, 32), 2), "the depth is int64"),
    "size": ("depth", np.ones((32, 31), np.float32), "32 x 31 pixels"),
}


class Faulty(Squares):
    """`Squares` whose sample `at` has a wrong label, or with "raises" cannot be read."""

    def __init__(self, split: str, fault: str, at: int = 5) -> None:
        super().__init__(split)
        self.fault, self.at = fault, at

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if self.split == "train" and index == self.at and self.fault == "raises":
            raise UnknownNameError("picture", "a", ["b"])
        if self.split == "train" and index == self.at and self.fault in FAULTS:
            task, label, _ = FAULTS[self.fault]
            sample.labels[task] = label
        if self.fault == "millimetres":
            sample.labels["depth"] = sample.labels["depth"] * 1000
        return sample


if "faulty" not in DENSE_DATASETS:
    DENSE_DATASETS.add("faulty", Faulty)


def recipe(fault: str, at: int = 5, workers: int = 0) -> dict[str, Any]:
    return {
        **make_recipe(training={"workers": workers}),
        "data": {"name": "faulty", "fault": fault, "at": at},
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_label_is_named_at_the_sample(fault: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"train5: .*{FAULTS[fault][2]}") as caught:
        train(recipe(fault), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_wrong_first_label_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    steps: list[None] = []
    experiment = JointExperiment(recipe("class", at=0), Progress(step=lambda: steps.append(None)))
    with pytest.raises(DataError, match=r"train0: .*out of range"):
        experiment.run(RunFolder(tmp_path / "run", experiment.recipe))
    assert not steps


@pytest.mark.parametrize(("fault", "kind"), [("class", DataError), ("raises", UnknownNameError)])
def test_out_of_a_worker_it_is_the_same_line(fault: str, kind: type[Exception]) -> None:
    experiment = JointExperiment(recipe(fault))
    loader = build_loader(experiment.data, experiment.sampler, 1, experiment.device)
    assert isinstance(loader, StepLoader)
    with pytest.raises(kind) as caught:
        for _, _ in zip(range(4), loader, strict=False):
            pass
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def test_depth_in_millimetres_is_told_of_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"train0: depth from .* millimetres.*divide by 1000") as caught:
        train(recipe("millimetres"), tmp_path / "run")
    assert sum("millimetres" in str(warning.message) for warning in caught) == 2  # the training and the validation part


# batch norm ----------------------------------------------------------------------------------------------------------

DEEPER = {"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 4, "patch_size": 8}}
UPER = {"head": {"name": "uper", "embed_dim": 8}, "backbone": DEEPER, "pictures": 0, "gradient_conflict": 0}
ALONE = {"sampler": {"name": "uniform"}, "tasks": {"semseg": {}, "depth": {}}}
STEPS = {"steps": 8, "batch_size": 2, "eval_every": 0}


@pytest.mark.parametrize(
    "method", [{"method": {"name": "adaptformer", "bottleneck_dim": 4}, "sharing": "per_task"}, {}]
)
def test_a_sample_alone_never_reaches_batch_norm_over_one_value(method: dict[str, Any], tmp_path: Path) -> None:
    told: list[str] = []
    experiment = JointExperiment(make_recipe(**UPER, **ALONE, **method, training=STEPS), Progress(message=told.append))
    assert experiment.model.needs_two == {"semseg", "depth"}
    assert experiment.run(RunFolder(tmp_path / "run", experiment.recipe)) is not None
    skipped = sum(experiment.model.skipped.values())
    if experiment.manager.single_pass:
        assert skipped == 0
    else:
        assert skipped > 0 and any("a sample that is alone in a batch is skipped" in line for line in told)


def test_batches_of_one_are_refused_where_batch_norm_cannot_train_on_them() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size is too small for batch norm '.*': give it two"):
        JointExperiment(make_recipe(**UPER, training={"batch_size": 1}))
    assert not JointExperiment(make_recipe(training={"batch_size": 1})).model.needs_two
    group = {**UPER, "head": {"name": "uper", "embed_dim": 8, "norm_cfg": {"type": "GN", "num_groups": 2}}}
    assert not JointExperiment(make_recipe(**group, training={"batch_size": 1})).model.needs_two
