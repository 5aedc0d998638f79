"""The joint recipe of DiTASK in miniature: its method on a small pyramid, a few steps on drawn squares."""

from __future__ import annotations

from pathlib import Path

from squares import TASKS, make_recipe, train

from mtpeft.runs.recipe import load_recipe


def test_the_recipe_of_ditask_in_miniature(tmp_path: Path) -> None:
    method = load_recipe("joint/scenes_ditask_paper")["method"]
    options = {"img_size": 32, "depths": (1, 1), "embed_dim": 12, "num_heads": (1, 2), "window_size": 4}
    backbone = {"name": "swin_mini_patch4_64", "pretrained": False, "options": options}
    recipe = make_recipe(backbone=backbone, method=method, sharing=None, training={"steps": 2, "eval_every": 2})
    _, results = train(recipe, tmp_path)
    assert results is not None and [task["name"] for task in results["tasks"]] == list(TASKS)
