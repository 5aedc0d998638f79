"""Generated images: same seed, same images; categories differ; bad input is told in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mtpeft.data import fractals, patterns, rendered
from mtpeft.errors import DataError, MtpeftError
from mtpeft.pretraining.config import DataSection
from mtpeft.pretraining.synthetic import FAMILIES, cache_path, draw_category, load_synthetic


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_gives_the_same_images_and_another_seed_others(family: str) -> None:
    first = draw_category((family, 3), seed=5, instances=3, size=32)
    assert first.shape == (3, 32, 32, 4 if family == "random_objects" else 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw_category((family, 3), seed=5, instances=3, size=32))
    assert (first != draw_category((family, 3), seed=6, instances=3, size=32)).any()
    assert (first != draw_category((family, 4), seed=5, instances=3, size=32)).any()
    assert (first[0] != first[1]).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_not_empty(family: str) -> None:
    images = draw_category((family, 20), seed=0, instances=12, size=32).astype(float)
    assert (images[..., :3].std(axis=(1, 2, 3)) > 3).mean() > 0.9


def test_chaos_game_reaches_the_sierpinski_triangle() -> None:
    corners = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    system = np.concatenate([np.tile(np.eye(2) / 2, (3, 1, 1)), corners[:, :, None]], axis=2)
    points = fractals.attractor(system, np.random.default_rng(0))
    assert points.min() > -0.01 and points.sum(axis=1).max() < 1.01
    hole = ((points > 0.26) & (points < 0.49)).all(axis=1) & (points.sum(axis=1) > 0.51)
    assert not hole.any()


def test_accepted_fractals_fill_the_image() -> None:
    rng = np.random.default_rng(1)
    system = fractals.random_system(rng)
    assert np.linalg.svd(system[:, :, :2], compute_uv=False).max() < 1
    images = fractals.ifs_category(np.random.default_rng(2), 4, 32)
    assert images.std() > 5


def test_cache_is_written_once_and_does_not_depend_on_the_workers(tmp_path: Path) -> None:
    sections = [
        DataSection(
            categories={"contours": 3, "ifs": 2}, instances=2, size=16, workers=workers, cache=str(tmp_path / folder)
        )
        for workers, folder in ((1, "one"), (2, "two"))
    ]
    (images, labels), (again, same) = (load_synthetic(section, seed=0) for section in sections)
    assert images.shape == (10, 16, 16, 3) and labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, same)
    stamp = cache_path(sections[0], 0).stat().st_mtime_ns
    load_synthetic(sections[0], seed=0)
    assert cache_path(sections[0], 0).stat().st_mtime_ns == stamp
    assert cache_path(sections[0], 1) != cache_path(sections[0], 0)


def test_damaged_cache_and_unknown_family_are_one_line_errors(tmp_path: Path) -> None:
    section = DataSection(categories={"contours": 1}, instances=1, size=16, workers=1, cache=str(tmp_path))
    cache_path(section, 0).write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"damaged.*delete it"):
        load_synthetic(section, seed=0)
    unknown = DataSection(categories={"contour": 1}, instances=1, size=16, workers=1, cache=str(tmp_path))
    with pytest.raises(MtpeftError, match=r"unknown image family 'contour'.*Did you mean 'contours'"):
        load_synthetic(unknown, seed=0)


def test_missing_pybullet_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(DataError, match=r'pip install "mtpeft\[sim\]"'):
        rendered.object_category(0, np.random.default_rng(0), 1, 32)


def test_object_categories_end_at_the_last_object() -> None:
    assert rendered.object_name(rendered.MAX_OBJECTS - 1) == "random_urdfs/999/999.urdf"
    with pytest.raises(DataError, match="does not exist"):
        rendered.object_name(rendered.MAX_OBJECTS)


def test_random_objects_are_never_the_named_ones_and_bring_their_relief() -> None:
    images = rendered.random_object_category(7, np.random.default_rng(0), 8, 48)
    plain = rendered.object_category(len(rendered.NAMED_OBJECTS) + 7, np.random.default_rng(0), 8, 48)
    np.testing.assert_array_equal(images[..., :3], plain)
    relief = images[..., 3].astype(int)
    share = (relief > 0).mean(axis=(1, 2))
    assert (share > 0.05).all() and (share < 0.9).all()
    assert (relief.max(axis=(1, 2)) - np.where(relief > 0, relief, 255).min(axis=(1, 2)) > 10).all()
    with pytest.raises(DataError, match="random object 1000 does not exist"):
        rendered.random_object_category(1000, np.random.default_rng(0), 1, 48)


def test_images_without_relief_get_an_empty_one_beside_random_objects(tmp_path: Path) -> None:
    section = DataSection({"contours": 1, "random_objects": 1}, instances=2, size=32, workers=1, cache=str(tmp_path))
    images, labels = load_synthetic(section, seed=0)
    assert images.shape == (4, 32, 32, 4) and labels.tolist() == [0, 0, 1, 1]
    assert not images[:2, ..., 3].any() and images[2:, ..., 3].any()


def test_textures_fill_the_frame_and_strokes_leave_most_of_it() -> None:
    texture = patterns.texture_category(np.random.default_rng(3), 8, 32).astype(float).mean(axis=-1)
    strokes = patterns.strokes_category(np.random.default_rng(3), 8, 32).astype(float).mean(axis=-1)
    borders = [np.abs(images[:, 0] - np.median(images, axis=(1, 2))[:, None]).mean() for images in (texture, strokes)]
    assert borders[0] > borders[1]
