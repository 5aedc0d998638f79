"""How small films of every kind are made: coded, cut without coding anew, turned by a flag, with edit lists written by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from video_files import numbered_frames

Array = np.ndarray

COUNT = 40


@dataclass(frozen=True)
class Film:
    """How a film is made: `shown` are the numbers a player shows, by default all; None: what decoding it in order gives."""

    codec: str
    suffix: str
    options: Mapping[str, str] = field(default_factory=dict)
    shown: Sequence[int] | None = tuple(range(COUNT))
    pix_fmt: str = "yuv420p"
    turn: int = 0
    """Degrees that a player turns the stored picture counter-clockwise."""
    mirror: bool = False
    after: Callable[[Path, Path], None] | None = None
    """Makes the film of a first one, which is coded in a file of suffix `first`."""
    first: str = ""
    size: tuple[int, int] = (48, 64)
    rate: int = 25
    stamps: Sequence[int] | None = None
    sound: float = 0.0
    interlaced: bool = False
    muxing: Mapping[str, str] = field(default_factory=dict)
    cover: bool = False
    """Whether there is an attached picture: of MP4 a marked stream, else an ordinary one before the film."""


def make(film: Film, path: Path) -> Path:
    """Write the film at `path`."""
    frames = numbered_frames(COUNT, *film.size)
    if film.mirror:
        frames = frames[:, :, ::-1]
    frames = np.rot90(frames, -film.turn // 90, axes=(1, 2))
    target = path if film.after is None else path.with_name(f"first_{path.stem}{film.first or film.suffix}")
    encode(target, np.ascontiguousarray(frames), film)
    if film.after is not None:
        film.after(target, path)
        target.unlink()
    return path


def encode(path: Path, frames: Array, film: Film) -> None:
    with av.open(str(path), "w", options=dict(film.muxing)) as container:
        cover: Any = container.add_stream("mjpeg", rate=1) if film.cover else None
        if cover is not None:  # a picture of another size, as shops put it into films
            cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
            cover.disposition = Disposition.attached_pic
        stream: Any = container.add_stream(film.codec, rate=film.rate, options=dict(film.options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = film.pix_fmt
        stream.codec_context.thread_count = 1
        if film.interlaced:
            stream.codec_context.flags |= (1 << 18) | (1 << 29)
        sound: Any = (
            container.add_stream("aac" if film.suffix != ".webm" else "libopus", rate=48000) if film.sound else None
        )
        if cover is not None:
            container.mux(cover.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8))))
            container.mux(cover.encode())
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if film.stamps is not None:
                frame.pts, frame.time_base = film.stamps[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            for _ in range(int(film.sound * 48000 / 1024)):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate = 48000
                container.mux(sound.encode(silence))
            container.mux(sound.encode())


def remux(source: Path, target: Path, start: int = 0, shift: int = 0, options: Mapping[str, str] | None = None) -> None:
    """Copy the packets from the last key frame at or before frame `start` on; that frame's time becomes `shift` frames."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=dict(options or {})) as new:
        stream = old.streams.video[0]
        packets = [p for p in old.demux(stream) if p.size]
        tick = int(1 / (25 * stream.time_base))
        zero = min(p.pts for p in packets if p.pts is not None) + start * tick
        first = max(i for i, p in enumerate(packets) if p.is_keyframe and (p.pts <= zero or i == 0))
        copy = new.add_stream_from_template(stream)
        for packet in packets[first:]:
            packet.pts = (packet.pts if packet.pts is not None else packet.dts) - zero + shift * tick
            packet.dts = packet.dts - zero + shift * tick if packet.dts is not None else None
            packet.stream = copy
            new.mux(packet)


def cut(start: int, **options: Any) -> Callable[[Path, Path], None]:
    """As `ffmpeg -ss T -i source -c copy target`."""
    return lambda source, target: remux(source, target, start, **options)


def boxes(data: bytes, path: str) -> int:
    """Where the contents of an MP4 box begin, its parents named first: "moov/trak/tkhd"."""
    place, end = 0, len(data)
    for name in path.split("/"):
        while place < end:
            length = struct.unpack(">I", data[place : place + 4])[0]
            if data[place + 4 : place + 8] == name.encode():
                end, place = place + length, place + 8
                break
            place += length
        else:
            raise ValueError(path)
    return place


def turned(a: int, b: int, c: int, d: int) -> Callable[[Path, Path], None]:
    """Copy an MP4 file and write the display matrix of its first track."""

    def write(source: Path, target: Path) -> None:
        data = bytearray(source.read_bytes())
        place = boxes(bytes(data), "moov/trak/tkhd") + 40
        values = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
        data[place : place + 36] = struct.pack(">9i", *values)
        target.write_bytes(data)

    return write


def edits(*entries: tuple[int, int]) -> Callable[[Path, Path], None]:
    """Copy an MP4 file and write its edit list: (number of frames, first frame); a first frame of -1 is an empty edit."""

    def write(source: Path, target: Path) -> None:
        data = bytearray(source.read_bytes())
        trak = boxes(bytes(data), "moov/trak")
        edts = boxes(bytes(data), "moov/trak/edts")
        elst = boxes(bytes(data), "moov/trak/edts/elst")
        movie = struct.unpack(">I", data[(p := boxes(bytes(data), "moov/mvhd")) + 12 : p + 16])[0]
        media = struct.unpack(">I", data[(p := boxes(bytes(data), "moov/trak/mdia/mdhd")) + 12 : p + 16])[0]
        offset = struct.unpack(">i", data[elst + 12 : elst + 16])[0]
        old = struct.unpack(">I", data[elst - 8 : elst - 4])[0]
        body = b"".join(
            struct.pack(">Iiii", n * movie // 25, -1 if f < 0 else offset + f * media // 25, 1 << 16, 0)[:12]
            for n, f in entries
        )
        new = struct.pack(">I4sII", 16 + len(body), b"elst", 0, len(entries)) + body
        data[elst - 8 : elst - 8 + old] = new
        grown = len(new) - old
        for place in (edts - 8, trak - 8, boxes(bytes(source.read_bytes()), "moov") - 8):
            size = struct.unpack(">I", data[place : place + 4])[0]
            data[place : place + 4] = struct.pack(">I", size + grown)
        assert source.read_bytes().index(b"mdat") < source.read_bytes().index(b"moov")  # so that no chunk moves
        target.write_bytes(data)

    return write


def drop_last(source: Path, target: Path) -> None:
    """Cut off the last tenth of the file."""
    data = source.read_bytes()
    target.write_bytes(data[: len(data) * 9 // 10])


def wrong_count(source: Path, target: Path) -> None:
    """AVI: the header's numbers of frames say 400."""
    data = bytearray(source.read_bytes())
    place = data.index(b"avih") + 8 + 16
    data[place : place + 4] = struct.pack("<I", 400)
    place = data.index(b"strh") + 8 + 32
    data[place : place + 4] = struct.pack("<I", 400)
    target.write_bytes(data)


def packed(source: Path, target: Path) -> None:
    """AVI of MPEG-4 whose third packet is a frame that is none (a "not coded" VOP), as frame droppers leave them."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        moved = 0
        for number, packet in enumerate(p for p in old.demux(stream) if p.size):
            data = bytes(packet)
            if number == 3:
                extra = av.Packet(data[:4] + bytes([0b01 << 6 | 0b000111, 0x7F, 0x7F]))
                extra.stream, extra.pts, extra.dts, extra.time_base = copy, packet.pts, packet.dts, packet.time_base
                new.mux(extra)
                moved = 1
            packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
            packet.stream = copy
            new.mux(packet)
