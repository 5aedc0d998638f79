"""Joint transforms: geometry as a camera would change it."""

from __future__ import annotations

import numpy as np
import pytest

from mtpeft.data.dense import Sample
from mtpeft.data.dense.scenes.geometry import backproject, border_distance, edges, linear_depth, normals
from mtpeft.data.dense.transforms import Crop, Flip, Photometric, Resize, Scale, build_transforms
from mtpeft.errors import ConfigError, UnknownNameError

FOCAL = 40.0
KINDS = {
    "semseg": "semseg",
    "depth": "depth",
    "normals": "normals",
    "saliency": "saliency",
    "edges": "edges",
    "distance": "distance",
}


def plane(normal: tuple[float, float, float], size: tuple[int, int] = (24, 32), offset: float = 3.0) -> np.ndarray:
    """Depth of the plane `offset` metres away whose normal (x right, y down, z towards the camera) is given."""
    n = np.array(normal) / np.linalg.norm(normal) * [1, 1, -1]
    rays = backproject(np.ones(size), FOCAL)
    return -offset / (rays @ n)


def slanted(size: tuple[int, int] = (24, 32)) -> Sample:
    rng = np.random.default_rng(0)
    depth = plane((0.4, -0.3, 0.8), size).astype(np.float32)
    semseg = np.zeros(size, dtype=np.uint8)
    semseg[3:9, 4:12] = 2
    labels = {
        "semseg": semseg,
        "depth": depth,
        "normals": normals(depth.astype(np.float64), FOCAL),
        "saliency": (semseg > 0).astype(np.uint8),
        "edges": edges(depth, semseg),
        "distance": border_distance(semseg),
    }
    return Sample(rng.integers(0, 256, (*size, 3), dtype=np.uint8), labels, "slanted plane")


def test_normals_of_planes_are_exact() -> None:
    for wanted in ((0.0, 0.0, 1.0), (0.4, -0.3, 0.8), (-0.5, 0.2, 0.7), (0.1, -0.7, 0.6)):
        unit = np.array(wanted) / np.linalg.norm(wanted)
        found = normals(plane(wanted), FOCAL)
        np.testing.assert_allclose(found, np.broadcast_to(unit, found.shape), atol=1e-5)


def test_normals_are_invalid_where_there_is_no_surface_to_compare_with() -> None:
    depth = np.full((9, 9), 2.0)
    depth[4, 4] = 5.0  # one far pixel between steps
    depth[0, 0] = 0.0
    found = normals(depth, FOCAL)
    assert (found[4, 4] == 0).all() and (found[0, 0] == 0).all()
    found[4, 4] = found[0, 0] = [0, 0, 1]
    np.testing.assert_allclose(found, np.broadcast_to([0, 0, 1], found.shape), atol=1e-6)


def test_edges_are_one_pixel_wide_and_on_the_nearer_side() -> None:
    depth = np.full((8, 8), 4.0)
    depth[:, 3:] = 2.0  # a step, the right side nearer
    assert edges(depth, np.zeros((8, 8), dtype=int)).nonzero()[1].tolist() == [3] * 8
    labels = np.zeros((8, 8), dtype=int)
    labels[5:] = 1
    assert edges(np.full((8, 8), 1.0), labels).sum() == 8


def test_border_distance_is_one_in_the_middle_and_zero_outside() -> None:
    instances = np.zeros((11, 11), dtype=int)
    instances[2:9, 2:9] = 1
    found = border_distance(instances)
    assert found[5, 5] == 1 and found[2, 2:9].max() == 0 and found[instances == 0].max() == 0
    assert found[3, 3] == pytest.approx(1 / 3)
    assert (border_distance(np.ones((4, 4), dtype=int)) == 1).all()  # its border is nowhere to be seen


def test_linear_depth_inverts_the_depth_buffer() -> None:
    near, far, metres = 0.1, 40.0, np.array([0.1, 0.5, 3.0, 40.0])
    buffer = far * (metres - near) / (metres * (far - near))
    np.testing.assert_allclose(linear_depth(buffer, near, far), metres)


def test_a_flipped_plane_has_the_flipped_normals() -> None:
    flipped = Flip(p=1)(slanted(), KINDS, np.random.default_rng(0))
    found = normals(flipped.labels["depth"].astype(np.float64), FOCAL)
    np.testing.assert_allclose(flipped.labels["normals"], found, atol=1e-3)
    assert (slanted().labels["normals"][..., 0] > 0.3).all() and (flipped.labels["normals"][..., 0] < -0.3).all()


def test_a_flip_mirrors_everything_and_twice_is_nothing() -> None:
    sample = slanted()
    once = Flip(p=1)(sample, KINDS, np.random.default_rng(0))
    np.testing.assert_array_equal(once.image, sample.image[:, ::-1])
    np.testing.assert_array_equal(once.labels["semseg"], sample.labels["semseg"][:, ::-1])
    twice = Flip(p=1)(once, KINDS, np.random.default_rng(0))
    for task, label in sample.labels.items():
        np.testing.assert_array_equal(twice.labels[task], label)
    assert Flip(p=0)(sample, KINDS, np.random.default_rng(0)) is sample


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_scaled_plane_has_the_scaled_depth_and_its_normals(factor: float) -> None:
    """Enlarged by s, with depth / s and s times as many pixels to the focal length: all points are s times nearer."""
    sample = slanted((48, 64))
    scaled = Scale(low=factor, high=factor)(sample, KINDS, np.random.default_rng(0))
    assert scaled.image.shape == (int(48 * factor), int(64 * factor), 3)
    here = scaled.labels["depth"][scaled.image.shape[0] // 2, scaled.image.shape[1] // 2]
    assert here == pytest.approx(sample.labels["depth"][24, 32] / factor, rel=0.01)
    # Of the enlarged plane only every second pixel is a new sample: compare those.
    step = max(1, int(factor))
    depth = scaled.labels["depth"][::step, ::step].astype(np.float64)
    found = normals(depth, FOCAL * factor / step)
    np.testing.assert_allclose(scaled.labels["normals"][::step, ::step], found, atol=0.02)


def test_scale_divides_depth_only() -> None:
    sample = slanted()
    scaled = Scale(low=1.5, high=1.5)(sample, KINDS, np.random.default_rng(0))
    assert set(np.unique(scaled.labels["semseg"])) == {0, 2}
    np.testing.assert_allclose(
        np.sort(np.unique(scaled.labels["depth"])) * 1.5, np.sort(np.unique(sample.labels["depth"])), rtol=1e-5
    )
    assert scaled.labels["distance"].max() == sample.labels["distance"].max()


def test_crop_cuts_image_and_labels_at_the_same_place() -> None:
    sample = slanted()
    for seed in range(5):
        part = Crop(size=(10, 12))(sample, KINDS, np.random.default_rng(seed))
        places = [
            (r, c) for r in range(15) for c in range(21) if (sample.image[r : r + 10, c : c + 12] == part.image).all()
        ]
        ((row, column),) = places
        for task, label in part.labels.items():
            np.testing.assert_array_equal(label, sample.labels[task][row : row + 10, column : column + 12])


def test_crop_pads_small_images_with_what_does_not_count() -> None:
    part = Crop(size=40)(slanted(), KINDS, np.random.default_rng(0))
    assert part.image.shape == (40, 40, 3)
    assert (part.labels["semseg"] == 255).sum() == (part.labels["edges"] == 255).sum() == 40 * 40 - 24 * 32
    outside = part.labels["semseg"] == 255
    assert (part.labels["depth"][outside] == 0).all() and (part.labels["distance"][outside] == -1).all()
    assert (part.labels["normals"][outside] == 0).all() and (part.image[outside] == 0).all()


def test_resize_keeps_values() -> None:
    small = Resize(size=(12, 16))(slanted(), KINDS, np.random.default_rng(0))
    small.check_sizes()
    assert small.image.shape == (12, 16, 3)
    assert set(np.unique(small.labels["semseg"])) == {0, 2}
    np.testing.assert_array_equal(small.labels["depth"], slanted().labels["depth"][1::2, 1::2])


def test_photometric_leaves_labels_alone() -> None:
    sample = slanted()
    changed = Photometric()(sample, KINDS, np.random.default_rng(0))
    assert (changed.image != sample.image).mean() > 0.5
    for task, label in sample.labels.items():
        np.testing.assert_array_equal(changed.labels[task], label)
    same = Photometric(0, 0, 0)(sample, KINDS, np.random.default_rng(0))
    assert np.abs(same.image.astype(int) - sample.image).max() <= 1


def test_configs_build_a_chain_and_mistakes_are_named() -> None:
    chain = build_transforms([{"name": "flip"}, {"name": "scale", "low": 1.1}, {"name": "crop", "size": 16}])
    assert chain(slanted(), KINDS, np.random.default_rng(0)).image.shape == (16, 16, 3)
    with pytest.raises(UnknownNameError, match=r"'flipp' \(transform 1\)\. Did you mean 'flip'"):
        build_transforms([{"name": "crop", "size": 8}, {"name": "flipp"}])
    for config, message in (
        ({"p": 0.5}, "'name' is missing"),
        ({"name": "scale", "lo": 1}, "no option 'lo'.*'low'"),
        ({"name": "crop"}, "needs the option 'size'"),
        ({"name": "crop", "size": (4, 0)}, "size is"),
        ({"name": "flip", "p": 2}, "probability"),
        ({"name": "scale", "low": 2, "high": 1}, "low <= high"),
        ({"name": "photometric", "contrast": 3}, "contrast is 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_transforms([config])
