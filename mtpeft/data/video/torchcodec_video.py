"""Video files read by torchcodec."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtpeft.data.video.reading import Array, checked, load, package_version, undecodable, unreadable


class TorchcodecVideo:
    """torchcodec's `VideoDecoder`, which needs a matching torch and FFmpeg's libraries on the machine.

    Its seek mode "exact" scans the packets of the file at opening, and trims and turns frames by what the file says.
    """

    def __init__(self, path: str) -> None:
        decoders = load("torchcodec.decoders", "torchcodec")
        self._path = path
        self.reader = package_version("torchcodec")
        try:
            self._decoder = decoders.VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            raise unreadable(path, error) from error
        self.fps = float(self._decoder.metadata.average_fps or 0)

    def __len__(self) -> int:
        return len(self._decoder)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width; decodes the first frame, which stands upright."""
        height, width = self.frames([0]).shape[1:3]
        return height, width

    def frames(self, indices: Sequence[int]) -> Array:
        """uint8 (T, H, W, 3)."""
        plain = checked(self._path, indices, len(self))
        try:
            return np.asarray(self._decoder.get_frames_at(indices=plain).data)
        except (RuntimeError, IndexError) as error:
            raise undecodable(self._path, plain, error) from error
