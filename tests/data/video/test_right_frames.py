"""Every decoder gives the frames that a player shows, upright, from any kind of file: 0 wrong frames of all asked for."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from film_making import COUNT, make
from film_zoo import FILMS
from video_files import read_numbers

from mtpeft.data.video.decoders import open_video
from mtpeft.data.video.decoding import read_clip, stop_decoding
from mtpeft.data.video.packets import _look, look
from mtpeft.errors import ConfigError

DECODERS = [
    "decord",
    "pyav",
    pytest.param(
        "torchcodec", marks=pytest.mark.skipif(not importlib.util.find_spec("torchcodec"), reason="not installed")
    ),
]
ENTERED = {
    *(f"h264_closed_{suffix}" for suffix in ("mp4", "mkv", "mov", "3gp", "m4v")),
    *("h265_closed_mp4", "h265_closed_mkv", "h265_default_mp4", "h265_refresh_mp4"),
    *("vp8_webm", "vp8_mkv", "vp9_webm", "vp9_mkv", "vp9_mp4", "vp8_altref_webm", "vp9_altref_webm"),
    *("mjpeg_mov", "mjpeg_mkv", "ffv1_mkv", "prores_mov", "h264_interlaced_mp4"),
    *("h264_vfr_mp4", "h264_vfr_mkv", "vp9_vfr_webm", "h264_odd_mp4", "vp9_odd_webm", "h264_tall_mp4"),
    *("h264_sound_mp4", "h264_sound_mkv", "vp9_sound_webm", "h264_late_mp4", "h264_late_mkv", "h264_delay_mp4"),
    *("h264_no_edits_mp4", "h264_faststart_mp4", "h264_truncated_mkv"),
}
"""Films that decord may enter at key frames: common ones are not left to another decoder for nothing."""


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every film of the zoo, made once."""
    folder = tmp_path_factory.mktemp("films")
    return {name: make(film, folder / f"{name}{film.suffix}") for name, film in FILMS.items()}


def shown(name: str, path: Path) -> list[int]:
    """The numbers that a player shows."""
    known = FILMS[name].shown
    if known is not None:
        return list(known)
    numbers = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.InvalidDataError):  # half a packet at the end
                numbers += [read_numbers(frame.to_ndarray(format="rgb24")[None])[0] for frame in packet.decode()]
    return numbers


def questions(count: int) -> list[list[list[int]]]:
    """What each of three readers is asked in turn: backwards, then all; mixed with repeats; single frames."""
    rng = np.random.default_rng(count)
    single = [[int(index)] for index in rng.permutation(count)[:3]]
    mixed = [rng.integers(0, count, 8).tolist(), sorted(rng.permutation(count)[:6].tolist()), [count // 2] * 3]
    return [[list(range(count))[::-3], list(range(count))], mixed, [*single, [count - 1, 0]]]


@pytest.mark.parametrize("decoder", DECODERS)
def test_no_frame_is_wrong(decoder: str, films: dict[str, Path], record_property: pytest.RecordProperty) -> None:
    asked = 0
    wrong: dict[str, str] = {}
    for name, path in films.items():
        numbers = shown(name, path)
        for asked_in_turn in questions(len(numbers)):
            video = open_video(path, decoder)  # data sets open a file for every clip
            if len(video) != len(numbers):
                wrong[name] = f"{len(video)} frames, a player shows {len(numbers)}"
                break
            for indices in asked_in_turn:
                got = read_numbers(video.frames(indices))
                asked += len(indices)
                if got != [numbers[index] for index in indices]:
                    wrong[name] = f"{video.reader}: {got} for {[numbers[index] for index in indices]}"
    record_property(
        "right_frames", f"{asked} frames asked for of {len(films)} films, {len(wrong)} films with a wrong one"
    )
    assert not wrong
    assert len(films) > 80 and len({(film.codec, film.suffix) for film in FILMS.values()}) >= 25


def test_decoders_agree_on_size_and_rate(films: dict[str, Path]) -> None:
    for name, path in films.items():
        one, two = open_video(path, "decord"), open_video(path, "pyav")
        assert one.size == two.size == FILMS[name].size, name
        assert one.fps == pytest.approx(two.fps, rel=1e-6), name
        if FILMS[name].stamps is None and FILMS[name].shown is not None and "packed" not in name:
            assert one.fps == pytest.approx(25, rel=1e-3), name
        elif FILMS[name].stamps is not None:  # on average, whatever rate the container claims
            assert one.fps == pytest.approx(1000 * (COUNT - 1) / FILMS[name].stamps[-1], rel=1e-3), name


def test_what_decord_reads_and_why_not(films: dict[str, Path]) -> None:
    looks = {name: look(str(path)) for name, path in films.items()}
    assert {name for name, found in looks.items() if found.way == "enter"} == ENTERED
    assert all(found.reason for name, found in looks.items() if name not in ENTERED)
    for name, found in looks.items():
        reader = open_video(films[name]).reader
        assert reader.startswith("av " if found.way == "not" else "decord") and reader.endswith(found.reason), name
    told = {
        "h264_open_mp4": "an open GOP",
        "h265_open_mkv": "an open GOP",
        "h264_cut_mp4": "an edit list",
        "h264_refresh_mp4": "key frames that depend on others",
        "h264_turn90_mp4": "a turned picture",
        "h264_closed_ts": "h264 in mpegts",
        "av1_mp4": "av1",
        "h264_fragments_mp4": "fragments",
        "h264_cover_mp4": "several video streams",
        "h264_truncated_mp4": "damaged packets",
        "h264_narrow_mp4": "a width of 72",
        "mpeg4_packed_avi": "packets without a picture",
    }
    assert {name: looks[name].reason for name in told} == told


def test_packets_are_looked_at_once_for_each_state_of_a_file(films: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(films["h264_closed_mp4"].read_bytes())
    _look.cache_clear()
    for decoder in ("decord", "pyav", "decord"):
        open_video(path, decoder).frames([3])
    assert _look.cache_info().misses == 1
    path.write_bytes(films["h264_cut_mp4"].read_bytes())
    assert len(open_video(path)) == COUNT - 17 and _look.cache_info().misses == 2


def test_the_child_says_what_read_the_file(films: dict[str, Path]) -> None:
    for name in ("h264_closed_mp4", "h264_open_mp4", "h264_closed_ts", "mpeg4_mkv"):
        clips = [read_clip(films[name], lambda count: np.array([count - 1, 4]), limit=limit) for limit in (None, 30.0)]
        assert clips[0].reader == clips[1].reader == open_video(films[name]).reader
        assert [read_numbers(clip.frames) for clip in clips] == [[COUNT - 1, 4]] * 2
    stop_decoding()


def test_without_pyav_nothing_is_guessed(films: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _look.cache_clear()
    monkeypatch.setitem(sys.modules, "av", None)  # what an import system without the package looks like
    for name in ("h264_open_mp4", "h264_closed_mp4"):
        with pytest.raises(ConfigError, match=r"decord gives wrong frames of some files.*pip install av") as error:
            open_video(films[name])
        assert "\n" not in str(error.value)
