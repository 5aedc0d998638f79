"""A dense stream of images that are not square, and a backbone in training mode."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from small_recipe import make_recipe
from small_runs import train
from tiles import make_dense

from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError

OPTIONS = {"depth": 2, "patch_size": 8}
BACKBONE = {"name": "vit_mini_patch4_32", "pretrained": False}


@pytest.mark.parametrize("name", ["dense_linear", "stage_linear"])
def test_wide_images_are_trained_on_and_measured(name: str, tmp_path: Path) -> None:
    wide = [{"name": "resize", "size": (48, 80)}]
    recipe = make_dense(
        backbone={**BACKBONE, "options": {**OPTIONS, "dynamic_img_size": True}},
        method={"name": "convpass", "bottleneck_dim": 4},
    )
    recipe["stream"] = {**recipe["stream"], "transforms": {"train": wide, "val": wide}, "head": {"name": name}}
    recipe["training"] = {**recipe["training"], "epochs": 1}
    _, results = train(recipe, tmp_path / "run")
    assert results is not None
    assert all(math.isfinite(value) for row in results["matrix"]["values"] for value in row if value is not None)


def test_drop_path_of_the_backbone_is_on_and_a_killed_run_ends_the_same(tmp_path: Path) -> None:
    options = {**OPTIONS, "drop_path_rate": 0.4, "proj_drop_rate": 0.1}
    recipe = make_recipe(backbone={**BACKBONE, "options": options, "train_mode": True})
    experiment, whole = train(recipe, tmp_path / "whole")
    assert whole is not None and experiment.manager.backbone_unchanged()
    assert train(recipe, tmp_path / "killed", 7)[1] is None
    assert train(recipe, tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    _, without = train(make_recipe(), tmp_path / "plain")
    assert without is not None and without["matrix"] != whole["matrix"]


@pytest.mark.parametrize("rate", ["drop_path_rate", "drop_rate", "attn_drop_rate", "proj_drop_rate", "patch_drop_rate"])
def test_a_rate_without_effect_is_an_error(rate: str) -> None:
    backbone: dict[str, Any] = {**BACKBONE, "options": {**OPTIONS, rate: 0.1}}
    with pytest.raises(ConfigError, match=rf"backbone\.options\.{rate}=0\.1 does nothing while the frozen") as error:
        Experiment(make_recipe(backbone=backbone))
    assert "\n" not in str(error.value)
    Experiment(make_recipe(backbone=backbone, method="full"))  # which trains, and so drops


def test_a_mode_without_effect_or_meaning_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.train_mode=True does nothing: vit_mini_patch4_32 has no dropout"):
        Experiment(make_recipe(backbone={**BACKBONE, "options": OPTIONS, "train_mode": True}))
    with pytest.raises(ConfigError, match=r"backbone\.train_mode is 'yes', expected True or False"):
        Experiment(make_recipe(backbone={**BACKBONE, "options": OPTIONS, "train_mode": "yes"}))
