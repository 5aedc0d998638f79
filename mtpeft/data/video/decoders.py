"""One interface over the libraries that decode video: decord (the default), PyAV and torchcodec.

Nothing here imports torch, so that the decoding process (`decoding`) starts at once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from mtpeft.data.video.decord_video import open_decord
from mtpeft.data.video.pyav_video import PyAVVideo
from mtpeft.data.video.reading import Decoder, package_version
from mtpeft.data.video.torchcodec_video import TorchcodecVideo
from mtpeft.errors import DataError
from mtpeft.registry import Registry

DECODERS: Registry[Callable[[str], Decoder]] = Registry("video decoder")
DECODERS.add("decord", open_decord)
DECODERS.add("pyav", PyAVVideo)
DECODERS.add("torchcodec", TorchcodecVideo)


def open_video(path: str | os.PathLike[str], decoder: str = "decord") -> Decoder:
    """Open a file with the decoder of that name: "decord", "pyav" or "torchcodec"; each uses one thread.

    decord leaves to PyAV the files in which it would give other frames than those asked for; the decoder's `reader`
    says so. Raises `DataError`, which names the file, when it is missing, empty, damaged, or has no picture in it;
    `ConfigError` for a decoder that is unknown or not installed.
    """
    factory = DECODERS.get(decoder, "key data.decoder")
    path = os.fspath(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: the video cannot be opened: {error.strerror}") from error
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise DataError(f"{path}: the video file is empty (0 bytes)")
    video = factory(path)
    if not len(video):
        raise DataError(f"{path}: the video has no frame")
    return video


def decoder_version(decoder: str) -> str:
    """Package and version of a decoder, such as "decord 0.6.0". Decoders round colours differently: runs record it.

    Raises `UnknownNameError` for the decoder, `ConfigError` when no package that has it is installed.
    """
    DECODERS.get(decoder, "key data.decoder")
    return package_version(decoder)
