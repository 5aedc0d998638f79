"""Reading the frames of a clip so that no file can hang or crash the process that asks for them.

Native decoders can neither be interrupted nor be trusted with damaged files. With a time limit, decoding runs in a child
process that lives as long as its parent, is killed when it is late, and is started again. It is an ordinary program, not
a fork, so it works in loader workers of every start method.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtpeft.data.video.decoders import open_video
from mtpeft.errors import ConfigError, DataError

Array = np.ndarray
Answer = tuple[dict[str, Any], "Array | None"]

TIME_LIMIT = 60.0
"""Seconds a clip may take unless a data set says otherwise."""
START_LIMIT = 120.0
"""Seconds the process may take to start."""


@dataclass(frozen=True)
class Clip:
    """Decoded frames uint8 (T, H, W, 3), their indices, the length and frame rate of the video, and what read it."""

    frames: Array
    indices: Array
    num_frames: int
    fps: float
    reader: str


def read_clip(
    path: str | os.PathLike[str],
    choose: Callable[[int], Array],
    decoder: str = "decord",
    limit: float | None = TIME_LIMIT,
) -> Clip:
    """The frames that `choose(number of frames)` names, an integer array of any shape, flattened.

    `limit` is in seconds for the whole clip; None decodes in this process, where a file may hang or crash it. Raises
    `DataError`, which names the file, when it cannot be read, is late, or crashes the decoder.
    """
    path = os.fspath(path)
    if limit is None:
        video = open_video(path, decoder)
        indices = np.asarray(choose(len(video))).reshape(-1)
        return Clip(video.frames(indices.tolist()), indices, len(video), video.fps, video.reader)
    with _lock:
        process = _current(limit)
        deadline = time.monotonic() + limit
        opened, _ = process.ask({"open": path, "decoder": decoder}, path, deadline)
        indices = np.asarray(choose(opened["count"])).reshape(-1)
        _, frames = process.ask({"frames": indices.tolist()}, path, deadline)
    assert frames is not None
    return Clip(frames, indices, opened["count"], opened["fps"], opened["reader"])


class DecodingProcess:
    """A child process that decodes; `ask` gives an answer, an error of the file, or kills the child."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.alive = True
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        program = f"from mtpeft.data.video.server import main; main({limit + 60})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._next("the decoding process", time.monotonic() + START_LIMIT)

    def ask(self, request: dict[str, Any], path: str, deadline: float) -> Answer:
        """Send a request about the file `path`. Raises `DataError`; after a late or broken answer the child is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            self.close()
            raise DataError(f"{path}: the decoding process ended ({error.strerror}); try the clip again") from error
        reply, frames = self._next(path, deadline)
        if "error" in reply:
            raise (ConfigError if reply["config"] else DataError)(reply["error"])
        return reply, frames

    def close(self) -> None:
        """Kill the child; harmless when it is gone."""
        self.alive = False
        self._process.kill()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return  # it waits for a dead disk and cannot even be killed: leave it behind
        for stream in (self._process.stdin, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):  # a pipe whose other end is dead complains
                    stream.close()

    def _next(self, path: str, deadline: float) -> Answer:
        try:
            answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self.close()
            raise DataError(f"{path}: not decoded within {self.limit:g} s; the decoder was stopped") from None
        if answer is None:
            code = self._process.wait()
            said = self._last_words()
            self.close()
            raise DataError(f"{path}: the decoder crashed (exit code {code}){said}")
        return answer

    def _listen(self) -> None:
        """Read answers to the end, in a thread of its own: a pipe cannot be read with a time limit on every system."""
        stream = self._process.stdout
        assert stream is not None
        with stream:
            while line := stream.readline():
                reply = json.loads(line)
                frames = None
                if "shape" in reply:
                    frames = np.empty(reply["shape"], dtype=np.uint8)
                    if stream.readinto(frames.data.cast("B")) != frames.nbytes:  # type: ignore[attr-defined]
                        break
                self._answers.put((reply, frames))
        self._answers.put(None)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last[:200]}" if last else ""


_lock = threading.Lock()
_running: dict[int, DecodingProcess] = {}
"""By the id of the process that started it: a forked worker inherits the entry but must not use its parent's child."""


def _current(limit: float) -> DecodingProcess:
    """This process's decoding process, started where there is none that lives."""
    mine = _running.get(os.getpid())
    if mine is not None and mine.limit != limit:
        mine.close()
    if mine is None or not mine.alive:
        mine = _running[os.getpid()] = DecodingProcess(limit)
    return mine


def stop_decoding() -> None:
    """End this process's decoding process; the next clip starts another."""
    mine = _running.pop(os.getpid(), None)
    if mine is not None:
        mine.close()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it at the fork


atexit.register(stop_decoding)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
