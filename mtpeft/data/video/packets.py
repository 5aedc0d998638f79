"""A look at the packets of a video file, without decoding them: which frames it has, and which way of reading is safe.

Every rule stands for a kind of file in which decord 0.6 was measured to give other frames than those asked for, without
an error (tests/data/video/film_zoo.py makes them all).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from mtpeft.data.video.reading import Array, load, unreadable
from mtpeft.errors import DataError

ENTERED = {"h264", "hevc", "vp8", "vp9", "mjpeg", "prores", "ffv1"}
"""Codecs that decord may enter at a key frame, in containers of `SOUGHT`."""
ORDERED = {"mpeg4", "mpeg2video", "mpeg1video"}
"""Codecs whose key frames decord misses by a few frames, but which it reads rightly from the start on."""
TOLD = {*ENTERED, *ORDERED, "av1"}
"""Codecs of which every packet is a frame, but for the exceptions below."""
SOUGHT = {"mp4", "matroska"}
"""Containers that store when a frame is shown; in others that time is made up while reading."""
COUNTED = {*SOUGHT, "avi", "mpeg"}
"""Containers in which decord reads the codecs of `ORDERED` rightly from the start on."""
NARROW = (16, 24, 48, 72)
"""Widths whose rows decord pads, and then takes the padding for pixels."""
TINY = 8
"""Bytes of an MPEG-4 packet that may say only "as before" and then is no frame."""
PACKED = re.compile(rb"DivX\d+(b|Build)\d+p")
"""How MPEG-4 streams say that packets hold two frames, and the packets behind them none."""
CACHE = 4096


@dataclass(frozen=True)
class Look:
    """What the packets of a file say.

    `count` is the number of frames that a player shows, None where only decoding can tell it. `stamps` are their times
    of presentation in order, empty where the file does not store them; `entries` those of the key frames at which a
    decoder may start. `way` is how decord may read the file: enter at any key frame, read in
    order from the start on, or not at all; `reason` says why it may not enter.
    """

    count: int | None
    stamps: Array
    entries: Array
    fps: float
    way: Literal["enter", "order", "not"]
    reason: str


@dataclass(frozen=True)
class _Packets:
    """The packets of one stream, in the order of decoding; a missing time stamp is NaN."""

    pts: Array
    dts: Array
    keys: Array
    entry: Array
    discarded: bool
    corrupt: bool
    empty: bool
    """Whether there may be packets that are no frame."""
    first: Any
    """The first frame, decoded; None where there is none."""


def look(path: str) -> Look:
    """Look at a file; remembered by path, size and time of change. Raises `DataError` for a file that cannot be read,
    `ConfigError` without PyAV."""
    status = os.stat(path)
    return _look(path, status.st_size, status.st_mtime_ns)


def video_stream(container: Any) -> Any:
    """The video stream of an open file that players show, no attached picture; None where there is none."""
    attached = load("av.stream", "pyav").Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & attached]
    best = container.streams.best("video")
    return best if best in streams else next(iter(streams), None)


@lru_cache(CACHE)
def _look(path: str, size: int, changed: int) -> Look:
    av = load("av", "pyav")
    try:
        with av.open(path) as container:
            stream = video_stream(container)
            if stream is None:
                raise DataError(f"{path}: the file has no video stream")
            names, declared = container.format.name.split(","), stream.frames
            codec, count = stream.codec_context.codec.canonical_name, len(container.streams.video)
            packets = _packets(container, stream, av)
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            tick, width = stream.time_base, stream.codec_context.width
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise unreadable(path, error) from error
    formats = set(names)
    sought = not formats.isdisjoint(SOUGHT)
    reason = _untold(packets, codec, sought and declared)
    if not sought and (codec not in ORDERED or formats.isdisjoint(COUNTED)):
        reason = f"{codec} in {names[0]}"
    none = np.empty(0, np.int64)
    if reason:
        return Look(None, none, none, rate, "not", reason)
    stamps = np.sort(packets.pts).astype(np.int64)
    fps = frame_rate(stamps, float(tick), rate)
    way: Literal["enter", "order", "not"] = "not"
    reason = _unordered(packets, count, width)
    if "mp4" in formats and declared != len(stamps):
        reason = reason or "fragments"
    if not reason and codec in ORDERED:
        way, reason = "order", f"{codec} is read from the start"
    elif not reason:
        reason = _unentered(packets) if codec in ENTERED else codec
        way = "not" if reason else "enter"
    return Look(len(stamps), stamps if sought else none, _entries(packets) if sought else none, fps, way, reason)


def frame_rate(stamps: Array, tick: float, rate: float) -> float:
    """Frames a second, on average between the first and the last; `rate` where there is only one."""
    if len(stamps) < 2 or stamps[-1] <= stamps[0]:
        return rate
    return float((len(stamps) - 1) / ((stamps[-1] - stamps[0]) * tick))


def _packets(container: Any, stream: Any, av: Any) -> _Packets:
    stream.codec_context.thread_count = 1
    codec, extradata = stream.codec_context.codec.canonical_name, bytes(stream.codec_context.extradata or b"")
    rows: list[tuple[float, float, bool, bool, bool, bool]] = []
    empty = codec == "mpeg4" and bool(PACKED.search(extradata))
    first = None
    for packet in container.demux(stream):
        if not packet.size:
            continue
        key = packet.is_keyframe
        entry = key and (codec not in ("h264", "hevc") or _starts(bytes(packet), codec, extradata))
        if codec == "vp8":
            empty |= not bytes(packet)[0] & 0x10  # show_frame (RFC 6386, 9.1)
        elif codec == "mpeg4":
            empty |= packet.size <= TINY or (not rows and bool(PACKED.search(bytes(packet))))
        stamps = (float("nan") if stamp is None else stamp for stamp in (packet.pts, packet.dts))
        rows.append((*stamps, key, entry, packet.is_discard, packet.is_corrupt))
        if first is None:
            try:
                first = next(iter(packet.decode()), None)
            except av.error.FFmpegError:
                first = False  # a damaged start: looked at no further
    if not rows:
        raise ValueError("no packet in the video stream")
    if first is None:
        first = next(iter(stream.decode(None)), None)
    pts, dts, keys, entries, discarded, corrupt = map(np.array, zip(*rows, strict=True))
    return _Packets(pts, dts, keys, entries, bool(discarded.any()), bool(corrupt.any()), empty, first)


def _untold(packets: _Packets, codec: str, declared: int) -> str:
    """Why the packets do not say which frames there are; `declared` is the container's number of them, 0 for unknown."""
    rules = {
        f"codec {codec}": codec not in TOLD,
        "an edit list": packets.discarded,
        "damaged packets": packets.corrupt,
        "packets without time stamps": bool(np.isnan(packets.pts).any()),
        "equal time stamps": len(np.unique(packets.pts)) < len(packets.pts),
        "a file cut short": declared > len(packets.pts),
        "no key frame at the start": not packets.keys[0],
        "packets without a picture": packets.empty,
    }
    for reason, found in rules.items():
        if found:
            return reason
    first = packets.first
    whole = bool(first) and first.pts == packets.pts[0] == packets.pts.min()
    return "" if whole else "frames before the first key frame"


def _unordered(packets: _Packets, streams: int, width: int) -> str:
    """Why decord may not read the file from its start on, though it counts it rightly."""
    if streams > 1:
        return "several video streams"
    if packets.pts[0] < 0:
        return "a start before 0"
    if packets.first.side_data.get("DISPLAYMATRIX") is not None:
        return "a turned picture"
    if width in NARROW:
        return f"a width of {width}"
    return ""


def _unentered(packets: _Packets) -> str:
    """Why decord may not jump to key frames, though it reads the file rightly from its start on."""
    keys = np.flatnonzero(packets.keys)
    if (keys != np.argsort(np.argsort(packets.pts))[keys]).any():
        return "an open GOP"
    before, after = np.maximum.accumulate(packets.pts), np.minimum.accumulate(packets.pts[::-1])[::-1]
    if (before[keys] > packets.pts[keys]).any() or (after[keys] < packets.pts[keys]).any():
        return "an open GOP"
    if not packets.entry[keys].all():
        return "key frames that depend on others"
    if not _apart(packets).all():
        return "key frames too near"
    return ""


def _apart(packets: _Packets) -> Array:
    """Of each key frame, whether a search by its presentation time does not find the next one by its decoding time."""
    keys = np.flatnonzero(packets.keys)
    following = np.append(packets.dts[keys][1:], np.inf)
    return ~(following <= packets.pts[keys])


def _entries(packets: _Packets) -> Array:
    keys = np.flatnonzero(packets.keys)
    return np.sort(packets.pts[keys[_apart(packets) & packets.entry[keys]]]).astype(np.int64)


def _starts(packet: bytes, codec: str, extradata: bytes) -> bool:
    """Whether a key frame's packet resets the decoder: H.264 IDR (type 5), H.265 IRAP (types 16 to 23)."""
    if codec == "h264":
        return any(unit & 0x1F == 5 for unit in _units(packet, extradata, 4))
    return any(16 <= unit >> 1 & 0x3F <= 23 for unit in _units(packet, extradata, 21))


def _units(packet: bytes, extradata: bytes, place: int) -> Iterator[int]:
    """The first byte of each NAL unit, which are behind their lengths (ISO 14496-15) or start codes."""
    at = 0
    if len(extradata) > place and extradata[0] == 1:
        width = (extradata[place] & 3) + 1
        while at + width < len(packet):
            yield packet[at + width]
            at += width + int.from_bytes(packet[at : at + width], "big")
        return
    while (at := packet.find(b"\0\0\1", at)) >= 0 and at + 3 < len(packet):
        yield packet[at + 3]
        at += 3
