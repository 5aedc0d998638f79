"""Exact frame indices, and transforms of clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtpeft.data.video.sampling import DenseSampling, SegmentSampling, build_sampling
from mtpeft.data.video.transforms import ClipTransform, random_box, view_boxes
from mtpeft.errors import ConfigError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_segment_centres_and_views() -> None:
    sampling = SegmentSampling(4)
    assert sampling.test(16).tolist() == [[2, 6, 10, 14]]
    assert sampling.test(10).tolist() == [[1, 3, 6, 8]]  # segments 0-1, 2-4, 5-6, 7-9
    assert sampling.test(16, views=2).tolist() == [[1, 5, 9, 13], [3, 7, 11, 15]]
    assert sampling.test(4).tolist() == [[0, 1, 2, 3]]


def test_segments_are_sampled_evenly_in_training() -> None:
    draws = np.stack([SegmentSampling(3).train(10, rng(seed)) for seed in range(200)])
    for column, frames in zip(draws.T, ({0, 1, 2}, {3, 4, 5}, {6, 7, 8, 9}), strict=True):
        assert set(column.tolist()) == frames


def test_dense_starts() -> None:
    sampling = DenseSampling(4, stride=3)  # spans 10 frames
    assert sampling.test(10).tolist() == [[0, 3, 6, 9]]
    assert sampling.test(15).tolist() == [[2, 5, 8, 11]]
    assert sampling.test(20, views=3)[:, 0].tolist() == [0, 5, 10]
    starts = {int(sampling.train(13, rng(seed))[0]) for seed in range(100)}
    assert starts == {0, 1, 2, 3}


def test_short_videos_are_padded_by_the_stated_rule() -> None:
    assert SegmentSampling(5).test(3).tolist() == [[0, 1, 2, 2, 2]]
    assert SegmentSampling(5, pad="loop").train(3, rng()).tolist() == [0, 1, 2, 0, 1]
    assert DenseSampling(4, 2).train(5, rng()).tolist() == [0, 2, 4, 4]
    assert DenseSampling(4, 2, pad="loop").test(5, views=2).tolist() == [[0, 2, 4, 1]] * 2
    assert SegmentSampling(3).train(1, rng()).tolist() == [0, 0, 0]


def test_sampling_is_a_function_of_the_generator() -> None:
    for sampling in (SegmentSampling(8), DenseSampling(8, 2)):
        assert sampling.train(100, rng(5)).tolist() == sampling.train(100, rng(5)).tolist()
        assert sampling.train(100, rng(5)).tolist() != sampling.train(100, rng(6)).tolist()


def test_wrong_numbers() -> None:
    with pytest.raises(ConfigError, match="sampling is 'sparse'"):
        build_sampling("sparse", 8)
    for options in ({"frames": 0}, {"frames": 8, "stride": 0}, {"frames": 8, "pad": "black"}):
        with pytest.raises(ConfigError, match=r"data\.(frames|stride|pad) is"):
            build_sampling("dense", **options)  # type: ignore[arg-type]


def test_test_crops() -> None:
    assert view_boxes(10, 20, 1) == [(0, 5, 10, 10)]
    assert view_boxes(10, 20, 3) == [(0, 0, 10, 10), (0, 5, 10, 10), (0, 10, 10, 10)]
    assert view_boxes(20, 10, 3) == [(0, 0, 10, 10), (5, 0, 10, 10), (10, 0, 10, 10)]
    assert view_boxes(10, 20, 1, 0.8) == [(1, 6, 8, 8)]
    with pytest.raises(ConfigError, match="crops is 2"):
        view_boxes(10, 20, 2)


def test_random_boxes_are_inside_and_of_the_size_wanted() -> None:
    for seed in range(100):
        top, left, height, width = random_box(40, 60, (0.3, 0.6), (0.75, 1.33), rng(seed))
        assert 0 <= top <= 40 - height and 0 <= left <= 60 - width
        assert 0.27 < height * width / 2400 < 0.63 and 0.7 < width / height < 1.4
    assert random_box(10, 100, (1.0, 1.0), (1.0, 1.0), rng()) == (0, 45, 10, 10)  # no box fits: the largest square


def still(count: int = 5, height: int = 20, width: int = 30) -> np.ndarray:
    return np.repeat(rng(3).integers(0, 256, (1, height, width, 3), dtype=np.uint8), count, axis=0)


def test_one_augmentation_serves_all_frames() -> None:
    transform = ClipTransform(16, brightness=0.4, contrast=0.4, saturation=0.4)
    for seed in range(5):
        clip = transform.train(still(), rng(seed))
        assert clip.shape == (3, 5, 16, 16) and clip.dtype == torch.float32 and clip.is_contiguous()
        assert torch.equal(clip, clip[:, :1].expand_as(clip))
    assert not torch.equal(transform.train(still(), rng(0)), transform.train(still(), rng(1)))


def test_flip_mirrors_and_can_be_off() -> None:
    whole = {"size": 20, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    frames = still(2, 20, 20)
    plain = ClipTransform(flip=0.0, **whole).train(frames, rng())  # type: ignore[arg-type]
    mirrored = ClipTransform(flip=1.0, **whole).train(frames, rng())  # type: ignore[arg-type]
    assert torch.equal(mirrored, plain.flip(-1)) and not torch.equal(mirrored, plain)


def test_normalisation_and_views() -> None:
    transform = ClipTransform(10, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    frames = still(4, 10, 20)
    clips = transform.test(frames, 3)
    assert clips.shape == (3, 3, 4, 10, 10)
    expected = (
        frames[:, :, 5:15].transpose(3, 0, 1, 2) / 255 - np.array([[[[0.5]]], [[[0.4]]], [[[0.3]]]])
    ) / np.array([[[[0.2]]], [[[0.3]]], [[[0.4]]]])
    np.testing.assert_allclose(clips[1].numpy(), expected, atol=1e-5)


def test_impossible_transforms() -> None:
    for options in ({"size": 0}, {"flip": 2.0}, {"scale": (0.5, 1.5)}, {"crop_ratio": 0.0}):
        with pytest.raises(ConfigError, match=r"data\."):
            ClipTransform(**options)  # type: ignore[arg-type]
