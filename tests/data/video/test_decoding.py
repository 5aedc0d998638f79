"""The decoding process: same frames, a time limit that works, damaged files, worker processes of both start methods."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader
from video_files import CODECS, numbered_frames, read_numbers, write_video

from mtpeft.data.video import decoding
from mtpeft.data.video.check import check_videos
from mtpeft.data.video.decoding import read_clip, stop_decoding
from mtpeft.data.video.records import VideoRecord
from mtpeft.errors import ConfigError, DataError

LIMIT = 20.0


def some(count: int) -> np.ndarray:
    return np.array([count // 2, 0, count - 1])


def hanging(folder: Path) -> Path:
    """A pipe nobody writes to: native code that opens it waits for ever."""
    path = folder / "hangs.mp4"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_the_child_gives_what_this_process_would(decoder: str, videos: dict[str, Path]) -> None:
    for path in videos.values():
        inside, outside = (read_clip(path, some, decoder, limit) for limit in (None, LIMIT))
        np.testing.assert_array_equal(inside.frames, outside.frames)
        assert read_numbers(outside.frames) == [35, 0, 69] == outside.indices.tolist()
        assert (outside.num_frames, outside.fps) == (70, inside.fps)


def test_a_decoder_that_hangs_is_stopped_and_the_next_clip_is_read(videos: dict[str, Path], tmp_path: Path) -> None:
    path = hanging(tmp_path)
    read_clip(videos["h264.mp4"], some, limit=5.0)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"hangs\.mp4: not decoded within 5 s"):
        read_clip(path, some, limit=5.0)
    assert time.monotonic() - start < 30
    assert read_numbers(read_clip(videos["h264.mp4"], some, limit=5.0).frames) == [35, 0, 69]


def test_a_decoder_that_crashes_is_reported(videos: dict[str, Path]) -> None:
    read_clip(videos["h264.mp4"], some, limit=LIMIT)

    def crash(count: int) -> np.ndarray:
        child = decoding._running[os.getpid()]._process
        child.kill()
        child.wait()
        return some(count)

    with pytest.raises(DataError, match=r"h264\.mp4: the decod(er crashed|ing process ended)"):
        read_clip(videos["h264.mp4"], crash, limit=LIMIT)
    assert len(read_clip(videos["h264.mp4"], some, limit=LIMIT).frames) == 3


def test_a_missing_decoder_is_no_fault_of_the_file(videos: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="unknown video decoder"):
        read_clip(videos["h264.mp4"], some, "none", LIMIT)


def test_the_child_ends_with_its_input() -> None:
    process = decoding.DecodingProcess(LIMIT)
    assert process._process.stdin is not None
    process._process.stdin.close()
    assert process._process.wait(timeout=10) == 0
    process.close()


class Numbers:
    """Items that decode in the worker; the files in `bad` are reported by their name."""

    def __init__(self, paths: list[Path], limit: float) -> None:
        self.paths, self.limit = paths, limit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> str:
        try:
            return str(read_numbers(read_clip(self.paths[index], some, limit=self.limit).frames))
        except DataError as error:
            return str(error)


def check_workers(method: str, paths: list[Path]) -> None:
    """A worker process reads all of `paths`, the third of which hangs."""
    read_clip(paths[0], some, limit=5.0)  # the parent has a child of its own, which a forked worker must not use
    read_clip(paths[0], some, limit=None)  # and has opened files itself
    loader = DataLoader(
        Numbers(paths, 5.0), batch_size=None, num_workers=1, multiprocessing_context=method, timeout=120
    )
    results = list(loader)
    assert "hangs.mp4: not decoded within 5 s" in results.pop(2)
    assert results == ["[35, 0, 69]"] * 4
    assert read_numbers(read_clip(paths[0], some, limit=5.0).frames) == [35, 0, 69]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_both_start_methods_never_hang(method: str, videos: dict[str, Path], tmp_path: Path) -> None:
    """In a process of their own: one that has run other tests has threads of other libraries, which no fork survives."""
    paths = [videos["h264.mp4"], videos["vp9.webm"], hanging(tmp_path), videos["mpeg4_b.avi"], videos["h264.mp4"]]
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, sys\n"
        "if __name__ == '__main__':\n"
        "    from test_decoding import check_workers\n"
        "    check_workers(sys.argv[1], [pathlib.Path(path) for path in sys.argv[2:]])\n"
    )
    folders = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, str(script), method, *map(str, paths)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=400, env={**os.environ, "PYTHONPATH": folders}
    )
    assert done.returncode == 0, done.stderr[-2000:]


def damaged_files(folder: Path) -> list[Path]:
    """100 files: truncated anywhere, bytes flipped, foreign contents under a wrong extension, zero length."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    whole = [
        write_video(folder / f"whole_{name}", numbered_frames(30), *CODECS[name]).read_bytes()
        for name in ("h264.mp4", "vp9.webm", "mpeg4_b.avi", "mpeg2_b.mkv")
    ]
    suffixes = (".mp4", ".webm", ".avi", ".mkv")
    paths = []
    for number in range(100):
        which = number % 4
        content = bytearray(whole[which])
        path = folder / f"{number:03d}{suffixes[which]}"
        if number < 40:
            content = content[: rng.integers(1, len(content))]
        elif number < 80:
            for place in rng.integers(0, len(content), int(rng.integers(1, 60))):
                content[place] ^= int(rng.integers(1, 256))
        elif number < 90:
            path = path.with_suffix(suffixes[(which + 1) % 4])
        elif number < 95:
            content = bytearray()
        else:
            content = bytearray(rng.integers(0, 256, 2000, dtype=np.uint8).tobytes())
        path.write_bytes(content)
        paths.append(path)
    return paths


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_hundred_damaged_files_are_each_accounted_for(decoder: str, tmp_path: Path) -> None:
    paths = damaged_files(tmp_path / "damaged")
    records = [VideoRecord(str(path), 0, path.name) for path in paths]
    index = tmp_path / "index.json"
    start = time.monotonic()
    bad = check_videos(records, decoder, limit=5.0, index=index)
    assert time.monotonic() - start < 300
    for path, reason in bad.items():
        assert Path(path).name in reason and "\n" not in reason
    names = {Path(path).name for path in bad}
    for path in paths[90:]:  # nothing to decode in these
        assert path.name in names
    wrong_extension = {path.name for path in paths[80:90]}
    assert not names & wrong_extension  # the contents decide, not the name
    assert len(names) > 30
    for path in paths:
        if path.name not in names:  # what counts as readable gives frames
            assert read_clip(path, some, decoder, 5.0).frames.shape[0] == 3
    stop_decoding()
    assert check_videos(records, decoder, limit=5.0, index=index) == bad
    assert os.getpid() not in decoding._running  # the second check read the index alone
    paths[95].write_bytes((tmp_path / "damaged" / "whole_h264.mp4").read_bytes())
    assert len(check_videos(records, decoder, limit=5.0, index=index)) == len(bad) - 1  # a repaired file is read again
