"""Video files read by torchcodec."""

from __future__ import annotations

import numpy as np

from mtpeft.data.video.reading import Array, Decoder, load, package_version, unreadable


class TorchcodecVideo(Decoder):
    """torchcodec's `VideoDecoder`, which needs a matching torch and FFmpeg's libraries on the machine.

    Its seek mode "exact" scans the packets of the file at opening, and trims and turns frames by what the file says.
    """

    def __init__(self, path: str) -> None:
        decoders = load("torchcodec.decoders", "torchcodec")
        self.path, self.errors = path, (RuntimeError, IndexError)
        self.reader = package_version("torchcodec")
        try:
            self._decoder = decoders.VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            raise unreadable(path, error) from error
        self.fps = float(self._decoder.metadata.average_fps or 0)

    def __len__(self) -> int:
        return len(self._decoder)

    def _frames(self, indices: list[int]) -> Array:
        return np.asarray(self._decoder.get_frames_at(indices=indices).data)
