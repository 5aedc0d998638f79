"""Rendered scenes: what they show, that they are reproducible, and that validation objects are unseen."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtpeft.data.dense import DenseDataset, build_dense_dataset
from mtpeft.data.dense.scenes import catalogue, render, stage
from mtpeft.data.dense.scenes.geometry import backproject, linear_depth, normals
from mtpeft.errors import ConfigError, DataError


def test_labels_have_the_promised_types_and_agree_with_each_other(scenes: DenseDataset) -> None:
    assert len(scenes) == 12
    for index in range(len(scenes)):
        sample = scenes[index]
        sample.check_sizes()
        labels = sample.labels
        assert set(labels) == set(scenes.tasks)
        assert sample.image.shape == (32, 32, 3) and sample.image.std() > 5
        assert len(np.unique(labels["semseg"])) >= 2 and labels["semseg"].max() < 9
        np.testing.assert_array_equal(labels["saliency"], labels["semseg"] > 0)
        assert (labels["semseg"][labels["parts"] > 0] >= 6).all()  # only robots have parts
        assert labels["depth"].dtype == np.float32 and labels["depth"].min() > 0.1 and labels["depth"].max() < 40
        length = np.linalg.norm(labels["normals"], axis=-1)
        assert (length > 0).mean() > 0.95
        np.testing.assert_allclose(length[length > 0], 1, atol=2e-3)
        rays = backproject(np.ones((32, 32)), render.focal_length(32)) * [1, 1, -1]  # z towards the camera
        facing = (rays * labels["normals"]).sum(axis=-1)
        assert (facing[length > 0] < 0.02).all()  # a visible surface does not look away
        assert 0.01 < labels["edges"].mean() < 0.3
        assert labels["distance"].min() == 0 and labels["distance"].max() == 1
        assert (labels["distance"][labels["saliency"] == 0] == 0).all()


def test_objects_fill_enough_of_the_image(scenes: DenseDataset, scenes_val: DenseDataset) -> None:
    for dataset in (scenes, scenes_val):
        assert np.mean([dataset[i].labels["saliency"].mean() for i in range(len(dataset))]) > 0.12


def test_a_scene_depends_on_seed_split_and_index_alone(scenes: DenseDataset) -> None:
    again = render.render_scene(1, "train", 7, 32)  # after other scenes were drawn in the same worlds
    stored = scenes[7]
    np.testing.assert_array_equal(again["image"], stored.image)
    for task in ("semseg", "parts", "depth", "edges"):
        np.testing.assert_array_equal(again[task], stored.labels[task])
    render._stage.cache_clear()  # a world that has drawn nothing yet
    fresh = render.render_scene(1, "train", 7, 32)
    for key, value in again.items():
        np.testing.assert_array_equal(fresh[key], value)
    for seed, split, index in ((2, "train", 7), (1, "val", 7), (1, "train", 8)):
        assert (render.render_scene(seed, split, index, 32)["image"] != again["image"]).mean() > 0.3


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_shows_its_own_objects_only(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, set[Any]] = {"files": set(), "primitives": set()}
    load, primitive = stage.Stage._load, stage.primitive

    def spy_load(self: stage.Stage, urdf: str, scale: float) -> int:
        shown["files"].add(urdf)
        return load(self, urdf, scale)

    def spy_primitive(shape: str, number: int, part: str) -> catalogue.Primitive:
        shown["primitives"].add((shape, number, primitive(shape, number, part).texture))
        return primitive(shape, number, part)

    monkeypatch.setattr(stage.Stage, "_load", spy_load)
    monkeypatch.setattr(stage, "primitive", spy_primitive)
    render._stage.cache_clear()
    for index in range(20):
        render.render_scene(3, split, index, 8)
    render._stage.cache_clear()
    robots = {robot.urdf for robot in catalogue.ROBOTS[split]}
    numbers = {int(found[1]) for f in shown["files"] if (found := re.match(r"random_urdfs/(\d+)/", f))}
    low, high = {"train": (300, 800), "val": (800, 1000)}[split]
    assert numbers and all(low <= number < high for number in numbers)
    assert shown["files"] - robots == {f"random_urdfs/{n:03d}/{n:03d}.urdf" for n in numbers}
    assert {robot.family for robot in catalogue.ROBOTS[split] if robot.urdf in shown["files"]} == set(
        catalogue.FAMILIES
    )
    assert all(low <= number < high for _, number, _ in shown["primitives"])
    assert {texture for *_, texture in shown["primitives"]} <= set(catalogue.TEXTURES[split])


def test_the_splits_share_no_object() -> None:
    for table in (catalogue.NUMBERS, catalogue.TEXTURES):
        assert not set(table["train"]) & set(table["val"])
    assert not {r.urdf for r in catalogue.ROBOTS["train"]} & {r.urdf for r in catalogue.ROBOTS["val"]}
    boxes = [catalogue.primitive("box", n, split) for split, numbers in catalogue.NUMBERS.items() for n in numbers]
    assert len({box.size for box in boxes}) == len(boxes)


def test_depth_and_normals_of_the_floor_are_those_of_its_geometry() -> None:
    """Camera 2 m above the floor looking straight down, then from (0, -2, 2) at the origin (45 degrees)."""
    world = stage.Stage("train", None)
    try:
        for body in (world.back, world.side):
            world._call("resetBasePositionAndOrientation", body, [0, 0, -1000], [0, 0, 0, 1])
        size = 32
        projection = world.bullet.computeProjectionMatrixFOV(stage.FIELD_OF_VIEW, 1, stage.NEAR, stage.FAR)
        found = []
        for eye, up in (([0, 0, 2], [0, 1, 0]), ([0, -2, 2], [0, 0, 1])):
            view = world.bullet.computeViewMatrix(eye, [0, 0, 0], up)
            image = world._call("getCameraImage", size, size, view, projection, renderer=world.bullet.ER_TINY_RENDERER)
            found.append(linear_depth(np.asarray(image[3]).reshape(size, size), stage.NEAR, stage.FAR))
        np.testing.assert_allclose(found[0], 2.0, rtol=2e-3)
        slanted = normals(found[1], render.focal_length(size), origin=stage.PIXEL_ORIGIN)
        np.testing.assert_allclose(slanted, np.broadcast_to([0, -(0.5**0.5), 0.5**0.5], slanted.shape), atol=1e-3)
    finally:
        world.close()


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_size is 0"):
        build_dense_dataset("scenes", "train", train_size=0, cache=str(tmp_path))
    with pytest.raises(ConfigError, match=r"no option 'sise'\. Did you mean 'size'"):
        build_dense_dataset("scenes", "train", sise=64)
    with pytest.raises(ConfigError, match="no split 'test'"):
        build_dense_dataset("scenes", "test")
    with pytest.raises(ConfigError, match=r"'scene'.* Did you mean 'scenes'"):
        build_dense_dataset("scene", "train")


def test_without_pybullet_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render._stage.cache_clear()
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(DataError, match=r"mtpeft\[sim\]"):
        build_dense_dataset("scenes", "train", train_size=1, cache=str(tmp_path))
