"""Joint training on images that are not square, and a backbone in training mode."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from squares import make_recipe, train

from mtpeft.errors import ConfigError
from mtpeft.joint.experiment import JointExperiment

WIDE = [{"name": "resize", "size": (48, 80)}]
OPTIONS = {"depth": 4, "patch_size": 8}
DROPS = {"name": "vit_mini_patch4_32", "pretrained": False, "options": {**OPTIONS, "drop_path_rate": 0.4}}


@pytest.mark.parametrize(
    "head", [{"name": "dense_linear"}, {"name": "stage_linear"}, {"name": "fcn", "embed_dim": 8, "norm_cfg": None}]
)
def test_wide_images_are_trained_on_measured_and_drawn(head: dict[str, Any], tmp_path: Path) -> None:
    backbone = {"name": "vit_mini_patch4_32", "pretrained": False, "options": {**OPTIONS, "dynamic_img_size": True}}
    recipe = make_recipe(
        backbone=backbone,
        transforms={"train": WIDE, "val": WIDE},
        head=head,
        method={"name": "convpass", "bottleneck_dim": 4},
        training={"steps": 2, "eval_every": 2, "log_every": 1},
    )
    _, results = train(recipe, tmp_path / "run")
    assert results is not None
    assert all(math.isfinite(value) for values in results["final"].values() for value in values.values())
    folder = tmp_path / "run/pictures"
    cases = [c for task in json.loads((folder / "index.json").read_text())["tasks"].values() for c in task["best"]]
    assert len(cases) == 3
    for case in cases:
        assert {Image.open(folder / case[part]).size for part in ("image", "truth", "prediction")} == {(80, 48)}


def test_drop_path_of_the_backbone_is_on_and_a_killed_run_ends_the_same(tmp_path: Path) -> None:
    recipe = make_recipe(backbone={**DROPS, "train_mode": True}, pictures=0, gradient_conflict=0)
    experiment, whole = train(recipe, tmp_path / "whole")
    assert whole is not None and experiment.manager.backbone_unchanged()
    assert train(recipe, tmp_path / "killed", kill_at=5)[1] is None
    assert train(recipe, tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    plain = make_recipe(backbone={**DROPS, "options": OPTIONS}, pictures=0, gradient_conflict=0)
    _, without = train(plain, tmp_path / "plain")
    assert without is not None and without["curves"] != whole["curves"]


def test_a_rate_without_effect_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"backbone\.options\.drop_path_rate=0\.4 does nothing while the frozen"
    ) as error:
        JointExperiment(make_recipe(backbone=DROPS))
    assert "\n" not in str(error.value)
