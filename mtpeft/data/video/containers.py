"""Which video files can be entered at a key frame by number, told from their first bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

_HEAD = 1 << 16
_MATROSKA = b"\x1a\x45\xdf\xa3"
_CODEC_IDS = re.compile(rb"V_VP8|V_VP9|V_AV1|V_MPEG4/ISO/AVC|V_MPEGH/ISO/HEVC")
_SAMPLE_ENTRIES = re.compile(rb"avc[13]|hvc1|hev1|vp08|vp09|av01")


def enters_at_key_frames(path: str) -> bool:
    """Whether no frame that follows a key frame in the file is shown before it, so that key frames keep their number.

    True for H.264, H.265, VP8, VP9 and AV1 in MP4, MOV, Matroska or WebM. In AVI and MPEG streams, and with MPEG-2 and
    MPEG-4 part 2 (DivX, Xvid) anywhere, frames between two key frames may be stored behind the second one: decord then
    gives other frames than asked for.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        if head.startswith(_MATROSKA):
            return _CODEC_IDS.search(head) is not None
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
            return False
        return any(kind == b"moov" and _SAMPLE_ENTRIES.search(file.read(size)) for kind, size in _boxes(file))


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of the contents of each box of an MP4 file (ISO 14496-12, 4.2); the file stands at its contents."""
    end = file.seek(0, 2)
    start = 0
    while start + 8 <= end:
        file.seek(start)
        header = file.read(8)
        length, contents = int.from_bytes(header[:4], "big"), 8
        if length == 1:
            length, contents = int.from_bytes(file.read(8), "big"), 16
        elif length == 0:
            length = end - start
        if length < contents:
            return
        yield header[4:], min(length, end - start) - contents
        start += length
