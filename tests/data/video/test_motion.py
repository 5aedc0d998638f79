"""The motion clips: same frames in another order, disjoint times, one set per seed, a cache that repairs itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtpeft.data.manifest import MANIFEST
from mtpeft.data.video import build_video_dataset, open_video
from mtpeft.data.video.motion.cache import load_clips
from mtpeft.data.video.motion.classes import MOTION_CLASSES, PAIRS, draw
from mtpeft.data.video.motion.encode import CODECS, clip_frames, encode
from mtpeft.data.video.motion.sources import SHOTS, source_frames
from mtpeft.errors import ConfigError, MtpeftError

OPTIONS = {"train_per_class": 2, "test_per_class": 1, "length": 8, "pixels": 64}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_shows_the_same_frames_in_another_order(pair: tuple[str, str]) -> None:
    for index in range(4):
        one, two = (clip_frames(0, "train", label, index, 16, 32)[0] for label in pair)
        assert one.shape == two.shape == (16, 32, 32, 3) and (one != two).any()
        assert sorted(frame.tobytes() for frame in one) == sorted(frame.tobytes() for frame in two)


def test_the_orders_are_those_the_names_say() -> None:
    rng = np.random.default_rng(0)
    order = {label: kind.order(8, rng).tolist() for label, kind in MOTION_CLASSES.items()}
    assert order["forward"] == list(range(8)) and order["reverse"] == list(range(7, -1, -1))
    assert order["swing"] == [0, 2, 4, 6, 7, 5, 3, 1]
    assert order["slow"] == [0, 0, 2, 2, 4, 4, 6, 6] and order["fast"] == [0, 2, 4, 6, 0, 2, 4, 6]
    pan, zoom = (draw(0, "train", group, 0, 8).windows for group in ("pan", "zoom"))
    assert (np.diff(pan[:, 1]) > 0).all() and order["pan_right"] == list(range(8))  # the window moves to the right
    assert (np.diff(zoom[:, 2]) < 0).all() and order["zoom_in"] == list(range(8))  # it gets smaller: things grow


def test_training_and_test_times_are_disjoint_and_without_a_cut() -> None:
    for number, shot in enumerate(SHOTS):
        assert shot.train[1] <= shot.test[0] and shot.test[1] <= len(source_frames(shot.file))
        for other in SHOTS[:number]:
            assert other.file != shot.file or other.test[1] <= shot.train[0]
        for split in ("train", "test"):
            for index in range(30):
                drawn = draw(1, split, "play", index, 16)
                first, last = getattr(drawn.shot, split)
                assert first <= drawn.times.min() and drawn.times.max() < last


@pytest.mark.parametrize("codec", range(len(CODECS)))
def test_every_codec_keeps_every_frame(codec: int, tmp_path: Path) -> None:
    frames, _ = clip_frames(0, "train", "shuffle", 0, 16, 64)
    content = encode(frames, codec)
    assert content == encode(frames, codec)  # the same bytes
    path = tmp_path / f"clip.{CODECS[codec][0]}"
    path.write_bytes(content)
    decoded = open_video(path).frames(range(16)).astype(int)
    differences = np.abs(decoded[:, None] - frames[None]).mean((2, 3, 4))
    assert len(open_video(path)) == 16
    assert np.diag(differences).max() < 8
    assert (differences.argmin(1) == np.arange(16)).mean() > 0.8  # neighbours may be alike; the order is kept


def test_the_data_set(tmp_path: Path) -> None:
    data = build_video_dataset("motion", "train", frames=4, size=32, limit=None, cache=str(tmp_path), **OPTIONS)
    assert len(data) == 24 and data.classes == tuple(MOTION_CLASSES) and data.transform.flip == 0
    assert data[0]["video"].shape == (3, 4, 32, 32) and data[0]["video"].std() > 0.1
    test = build_video_dataset("motion", "test", frames=4, size=32, limit=None, cache=str(tmp_path), **OPTIONS)
    assert sorted(test.targets) == list(range(12))
    assert {Path(record.path).suffix for record in data.records} == {".mp4", ".mkv"}
    only = build_video_dataset("motion", "test", limit=None, cache=str(tmp_path), groups=["tilt", "zoom"], **OPTIONS)
    assert only.classes == ("zoom_in", "zoom_out", "tilt_up", "tilt_down") and sorted(only.targets) == [0, 1, 2, 3]
    with pytest.raises(MtpeftError, match=r"unknown group .tit. .*Did you mean .tilt."):
        build_video_dataset("motion", "test", cache=str(tmp_path), groups=["tit"])
    with pytest.raises(ConfigError, match="length is 7"):
        build_video_dataset("motion", "train", length=7, cache=str(tmp_path))
    with pytest.raises(ConfigError, match="train_per_class is 0"):
        build_video_dataset("motion", "train", train_per_class=0, cache=str(tmp_path))


def test_clips_are_made_once_and_damaged_ones_again(tmp_path: Path) -> None:
    clips = load_clips(str(tmp_path), 0, "test", 1, 8, 64)
    contents = [path.read_bytes() for path, _ in clips]
    changed = [path.stat().st_mtime_ns for path, _ in clips]
    clips[3][0].write_bytes(contents[3][:-1])
    clips[5][0].unlink()
    with pytest.warns(UserWarning, match=f"{clips[3][0].name} is damaged"):
        assert load_clips(str(tmp_path), 0, "test", 1, 8, 64) == clips
    assert [path.read_bytes() for path, _ in clips] == contents
    again = [path.stat().st_mtime_ns for path, _ in clips]
    assert [number for number, (a, b) in enumerate(zip(changed, again, strict=True)) if a != b] == [3, 5]
    more = load_clips(str(tmp_path), 0, "test", 2, 8, 64)
    assert set(clips) < set(more)
    assert (next(tmp_path.rglob(MANIFEST))).stat().st_size > 1000


def flow(clips: np.ndarray, grid: int = 4) -> np.ndarray:
    """Mean motion of the blocks of a grid, from gradients in space and time: (N, features)."""
    gray = clips.astype(np.float32).mean(-1) / 255
    down, right = (np.gradient(gray, axis=axis)[:, :-1] for axis in (2, 3))
    change = np.diff(gray, axis=1)

    def blocks(values: np.ndarray) -> np.ndarray:
        count, steps, height, width = values.shape
        return values.reshape(count, steps, grid, height // grid, grid, width // grid).sum((1, 3, 5))

    moves = [-blocks(slope * change) / (blocks(slope * slope) + 0.5) for slope in (down, right)]
    return np.concatenate(moves, axis=1).reshape(len(clips), -1)


@pytest.mark.parametrize("pair", [PAIRS[0], PAIRS[1], PAIRS[2], PAIRS[-1]])
def test_direction_shows_in_motion_and_not_in_the_average_frame(pair: tuple[str, str]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def clips(split: str, count: int) -> np.ndarray:
        return np.stack([clip_frames(0, split, label, i, 16, 32)[0] for label in pair for i in range(count)])

    train, test = clips("train", 60), clips("test", 40)
    targets, truth = np.repeat([0, 1], 60), np.repeat([0, 1], 40)

    def accuracy(features: np.ndarray, others: np.ndarray) -> float:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        return float(model.fit(features, targets).score(others, truth))

    averages = [part.mean(1).reshape(len(part), -1)[:, ::12] for part in (train, test)]
    assert abs(accuracy(*averages) - 0.5) < 0.05  # both classes have the same averages
    assert accuracy(flow(train), flow(test)) > (0.6 if "forward" in pair else 0.8)
