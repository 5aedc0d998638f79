"""The program of the decoding process: requests as JSON lines on standard input, answers on standard output.

{"open": path, "decoder": name} answers {"count", "fps", "reader"}; {"frames": [...]} answers {"shape"} and the bytes of
the frames.
An error answers {"error": message, "config": whether the decoder is to blame}. The process ends when standard input does.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from typing import Any

import numpy as np

from mtpeft.data.video.decoders import open_video
from mtpeft.data.video.reading import Decoder
from mtpeft.errors import ConfigError, MtpeftError


def main(limit: float) -> None:
    """Serve until standard input ends. A request that hangs for longer than `limit` seconds ends the process.

    The parent kills a process that is late; the limit here is for the case that the parent is gone by then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    video: Decoder | None = None
    _answer(answers, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        frames: np.ndarray | None = None
        faulthandler.dump_traceback_later(limit, exit=True)
        try:
            if "open" in request:
                video = None  # close the last one first
                video = open_video(request["open"], request["decoder"])
                reply: dict[str, Any] = {"count": len(video), "fps": video.fps, "reader": video.reader}
            else:
                assert video is not None
                frames = np.ascontiguousarray(video.frames(request["frames"]))
                reply = {"shape": frames.shape}
        except MtpeftError as error:
            reply = {"error": str(error), "config": isinstance(error, ConfigError)}
        finally:
            faulthandler.cancel_dump_traceback_later()
        _answer(answers, reply, frames)


def _answer(stream: Any, reply: dict[str, Any], frames: np.ndarray | None = None) -> None:
    stream.write(json.dumps(reply).encode() + b"\n")
    if frames is not None:
        stream.write(frames.data.cast("B"))
    stream.flush()
