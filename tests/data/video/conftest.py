"""Videos that the tests of decoders and loaders share."""

from __future__ import annotations

from pathlib import Path

import pytest
from video_files import CODECS, numbered_frames, write_video


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A numbered video of 70 frames per codec."""
    folder = tmp_path_factory.mktemp("videos")
    frames = numbered_frames(70)
    return {name: write_video(folder / name, frames, *settings) for name, settings in CODECS.items()}
