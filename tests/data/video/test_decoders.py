"""Decoders give exactly the frames asked for, and name what is wrong with a file."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import CODECS, read_numbers, write_audio, write_video

from mtpeft.data.video.decoders import decoder_version, open_video
from mtpeft.errors import ConfigError, DataError

INSTALLED = ("decord", "pyav")


@pytest.mark.parametrize("decoder", INSTALLED)
@pytest.mark.parametrize("name", CODECS)
def test_random_access_gives_the_frames_asked_for(decoder: str, name: str, videos: dict[str, Path]) -> None:
    video = open_video(videos[name], decoder)
    assert len(video) == 70 and video.fps == pytest.approx(25) and video.size == (48, 64)
    rng = np.random.default_rng(0)
    for indices in ([0], [69], [33, 34, 35], [60, 2, 60, 41], rng.integers(0, 70, 16).tolist(), list(range(70))):
        frames = video.frames(indices)
        assert frames.dtype == np.uint8 and frames.shape == (len(indices), 48, 64, 3)
        assert read_numbers(frames) == indices


@pytest.mark.parametrize("name", CODECS)
def test_frames_equal_those_of_sequential_decoding(name: str, videos: dict[str, Path]) -> None:
    with av.open(str(videos[name])) as container:
        sequential = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    indices = np.random.default_rng(1).permutation(70)[:20].tolist()
    np.testing.assert_array_equal(open_video(videos[name], "pyav").frames(indices), sequential[indices])
    decord = open_video(videos[name], "decord").frames(indices).astype(int)
    assert np.abs(decord - sequential[indices]).mean() < 1.5  # another rounding from YUV to RGB


@pytest.mark.parametrize("decoder", INSTALLED)
def test_bad_files_are_named(decoder: str, videos: dict[str, Path], tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("no video" * 100)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(videos["h264.mp4"].read_bytes()[:3000])
    audio = write_audio(tmp_path / "sound.mp4")
    for path, reason in (
        (tmp_path / "absent.mp4", "No such file"),
        (empty, r"empty \(0 bytes\)"),
        (text, "cannot be read"),
        (cut, "cannot be (read|opened)|no video stream"),
        (audio, "no video stream"),
    ):
        with pytest.raises(DataError, match=f"{path.name}.*{reason}") as caught:
            open_video(path, decoder).frames([0])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decoder", INSTALLED)
def test_a_frame_that_is_not_there(decoder: str, videos: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"h264\.mp4: frame 70 was asked for, but the video has 70"):
        open_video(videos["h264.mp4"], decoder).frames([3, 70])


@pytest.mark.parametrize("width", [16, 24, 32, 40, 48, 56, 72, 80])
def test_narrow_videos(width: int, tmp_path: Path) -> None:
    """decord takes the padding of some for pixels."""
    path = write_video(tmp_path / "narrow.mp4", np.full((3, 48, width, 3), 200, np.uint8))
    one, two = (open_video(path, decoder).frames([2, 0]) for decoder in INSTALLED)
    assert one.shape == two.shape == (2, 48, width, 3)
    assert np.abs(one.astype(int) - 200).max() < 8 and np.abs(two.astype(int) - 200).max() < 8


def test_unknown_and_absent_decoders(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"unknown video decoder 'decrod'.*'decord'"):
        open_video(videos["h264.mp4"], "decrod")
    monkeypatch.setitem(sys.modules, "av", None)  # what an import system without the package looks like
    with pytest.raises(ConfigError, match=r"'pyav' cannot be loaded.*pip install av"):
        open_video(videos["h264.mp4"], "pyav")
    assert decoder_version("decord").startswith("decord")
