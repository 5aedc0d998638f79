"""Small films of every kind that decoders count differently: each frame shows its number and which way is up."""

from __future__ import annotations

from film_making import COUNT, Film, cut, drop_last, edits, packed, turned, wrong_count

STEADY = "threads=1:sync-lookahead=0"
X264 = {"bf": "3", "crf": "12", "preset": "veryfast"}
X265 = {"crf": "12", "preset": "superfast"}
QUALITY = {"qmin": "1", "qmax": "3"}


def x264(**params: int | str) -> dict[str, str]:
    return {**X264, "x264-params": ":".join([STEADY, *(f"{k.replace('_', '-')}={v}" for k, v in params.items())])}


def x265(**params: int | str) -> dict[str, str]:
    return {
        **X265,
        "x265-params": ":".join(
            ["pools=none:frame-threads=1:log-level=none", *(f"{k.replace('_', '-')}={v}" for k, v in params.items())]
        ),
    }


STRICT = {"keyint": 10, "bframes": 3, "b_adapt": 0, "scenecut": 0}
OPEN, CLOSED = x264(open_gop=1, **STRICT), x264(open_gop=0, **STRICT)
OPEN5, CLOSED5 = x265(open_gop=1, **STRICT), x265(open_gop=0, **STRICT)
MPEG = {**QUALITY, "bf": "2", "g": "10"}
VP8 = {"crf": "4", "b:v": "1M", "g": "10", "auto-alt-ref": "0"}
AV1 = {"preset": "10", "crf": "20", "g": "10", "svtav1-params": "lp=1"}
VP9 = {"crf": "10", "b:v": "0", "cpu-used": "6", "g": "10"}
IRREGULAR = [40 * i + (17 if i % 3 else 0) + (500 if i > 20 else 0) for i in range(COUNT)]

FILMS: dict[str, Film] = {
    **{
        f"h264_closed_{s}": Film("libx264", f".{s}", CLOSED)
        for s in ("mp4", "mkv", "mov", "avi", "ts", "flv", "3gp", "m4v", "mpg")
    },
    **{f"h264_open_{s}": Film("libx264", f".{s}", OPEN) for s in ("mp4", "mkv", "mov", "avi", "ts", "flv")},
    **{f"h265_closed_{s}": Film("libx265", f".{s}", CLOSED5) for s in ("mp4", "mkv", "ts")},
    **{f"h265_open_{s}": Film("libx265", f".{s}", OPEN5) for s in ("mp4", "mkv", "mov", "ts")},
    "h265_default_mp4": Film("libx265", ".mp4", x265()),
    **{f"mpeg4_{s}": Film("mpeg4", f".{s}", MPEG) for s in ("mp4", "avi", "mkv", "mov")},
    "mpeg4_plain_avi": Film("mpeg4", ".avi", {**QUALITY, "g": "10"}),
    **{f"mpeg2_{s}": Film("mpeg2video", f".{s}", MPEG) for s in ("mpg", "ts", "mkv", "mp4", "vob")},
    "mpeg1_mpg": Film("mpeg1video", ".mpg", MPEG),
    **{f"vp8_{s}": Film("libvpx", f".{s}", VP8) for s in ("webm", "mkv")},
    "vp8_altref_webm": Film("libvpx", ".webm", {**VP8, "auto-alt-ref": "1", "lag-in-frames": "16", "g": "12"}),
    **{f"vp9_{s}": Film("libvpx-vp9", f".{s}", VP9) for s in ("webm", "mkv", "mp4")},
    "vp9_altref_webm": Film("libvpx-vp9", ".webm", {**VP9, "auto-alt-ref": "6", "lag-in-frames": "25", "g": "20"}),
    **{f"av1_{s}": Film("libsvtav1", f".{s}", AV1, size=(64, 64)) for s in ("mp4", "mkv", "webm")},
    **{f"mjpeg_{s}": Film("mjpeg", f".{s}", QUALITY, pix_fmt="yuvj420p") for s in ("avi", "mov", "mkv")},
    "ffv1_mkv": Film("ffv1", ".mkv"),
    "ffv1_avi": Film("ffv1", ".avi"),
    "prores_mov": Film("prores_ks", ".mov", pix_fmt="yuv422p10le"),
    "h263_avi": Film("h263p", ".avi", {**QUALITY, "g": "10"}),
    "flv1_flv": Film("flv", ".flv", {**QUALITY, "g": "10"}),
    "wmv2_asf": Film("wmv2", ".asf", {**QUALITY, "g": "10"}),
    "h264_refresh_mp4": Film("libx264", ".mp4", x264(keyint=10, intra_refresh=1, bframes=0)),
    "h264_interlaced_mp4": Film("libx264", ".mp4", x264(tff=1, **STRICT), size=(64, 64), interlaced=True),
    "mpeg2_interlaced_ts": Film("mpeg2video", ".ts", MPEG, size=(64, 64), interlaced=True),
    "h264_vfr_mp4": Film("libx264", ".mp4", CLOSED, rate=1000, stamps=IRREGULAR),
    "h264_vfr_mkv": Film("libx264", ".mkv", CLOSED, rate=1000, stamps=IRREGULAR),
    "vp9_vfr_webm": Film("libvpx-vp9", ".webm", VP9, rate=1000, stamps=IRREGULAR),
    "h264_odd_mp4": Film("libx264", ".mp4", CLOSED, size=(49, 65), pix_fmt="yuv444p"),
    "vp9_odd_webm": Film("libvpx-vp9", ".webm", VP9, size=(49, 65)),
    "h264_tall_mp4": Film("libx264", ".mp4", CLOSED, size=(80, 64)),
    "h264_cover_mp4": Film("libx264", ".mp4", CLOSED, cover=True),
    "h264_cover_mkv": Film("libx264", ".mkv", CLOSED, cover=True),
    "h264_narrow_mp4": Film("libx264", ".mp4", CLOSED, size=(64, 72)),
    "h264_sound_mp4": Film("libx264", ".mp4", CLOSED, sound=4.0),
    "h264_sound_mkv": Film("libx264", ".mkv", CLOSED, sound=4.0),
    "vp9_sound_webm": Film("libvpx-vp9", ".webm", VP9, sound=4.0),
    "h264_cut_mp4": Film("libx264", ".mp4", CLOSED, range(17, COUNT), after=cut(17)),
    "h264_cut_open_mp4": Film("libx264", ".mp4", OPEN, range(17, COUNT), after=cut(17)),
    "h264_cut_mov": Film("libx264", ".mov", CLOSED, range(17, COUNT), after=cut(17)),
    "h265_cut_mp4": Film("libx265", ".mp4", CLOSED5, range(17, COUNT), after=cut(17)),
    "h265_cut_open_mp4": Film("libx265", ".mp4", OPEN5, range(17, COUNT), after=cut(17)),
    "mpeg4_cut_mp4": Film("mpeg4", ".mp4", MPEG, range(17, COUNT), after=cut(17)),
    "vp9_cut_mp4": Film("libvpx-vp9", ".mp4", VP9, range(17, COUNT), after=cut(17)),
    "h264_late_mp4": Film("libx264", ".mp4", CLOSED, after=cut(0, shift=30)),
    "h264_late_mkv": Film("libx264", ".mkv", CLOSED, after=cut(0, shift=30)),
    "h264_head_mp4": Film("libx264", ".mp4", CLOSED, range(23), after=edits((23, 0))),
    "h264_middle_mp4": Film("libx264", ".mp4", CLOSED, range(5, 28), after=edits((23, 5))),
    "h264_delay_mp4": Film("libx264", ".mp4", CLOSED, after=edits((10, -1), (40, 0))),
    "h264_two_edits_mp4": Film(
        "libx264", ".mp4", CLOSED, [*range(5, 15), *range(25, 35)], after=edits((10, 5), (10, 25))
    ),
    "h264_fragments_mp4": Film(
        "libx264", ".mp4", CLOSED, after=cut(0, options={"movflags": "frag_keyframe+empty_moov"})
    ),
    "h264_no_edits_mp4": Film("libx264", ".mp4", CLOSED, muxing={"use_editlist": "0"}),
    "h264_faststart_mp4": Film("libx264", ".mp4", CLOSED, muxing={"movflags": "+faststart"}),
    "mpeg4_nob_mp4": Film("mpeg4", ".mp4", {**QUALITY, "g": "10"}),
    "mpeg2_nob_mkv": Film("mpeg2video", ".mkv", {**QUALITY, "g": "10"}),
    "h264_refresh_strict_mp4": Film("libx264", ".mp4", x264(keyint=10, intra_refresh=1, bframes=0, scenecut=0)),
    "h265_refresh_mp4": Film("libx265", ".mp4", x265(keyint=10, intra_refresh=1, bframes=0, scenecut=0)),
    "h264_before_0_mkv": Film(
        "libx264", ".mkv", CLOSED, after=cut(0, shift=-2, options={"avoid_negative_ts": "disabled"})
    ),
    "h264_truncated_ts": Film("libx264", ".ts", CLOSED, None, after=drop_last),
    "h264_truncated_mp4": Film("libx264", ".mp4", CLOSED, None, muxing={"movflags": "+faststart"}, after=drop_last),
    "h264_truncated_mkv": Film("libx264", ".mkv", CLOSED, None, after=drop_last),
    "mpeg4_packed_avi": Film("mpeg4", ".avi", {**QUALITY, "g": "10"}, after=packed),
    "mpeg4_count_avi": Film("mpeg4", ".avi", {**QUALITY, "g": "10"}, after=wrong_count),
    "h264_turn90_mp4": Film("libx264", ".mp4", CLOSED, turn=90, after=turned(0, -1, 1, 0)),
    "h264_turn180_mp4": Film("libx264", ".mp4", CLOSED, turn=180, after=turned(-1, 0, 0, -1)),
    "h264_turn270_mp4": Film("libx264", ".mp4", CLOSED, turn=270, after=turned(0, 1, -1, 0)),
    "h264_turn90_mov": Film("libx264", ".mov", CLOSED, turn=90, after=turned(0, -1, 1, 0)),
    "h265_turn90_mp4": Film("libx265", ".mp4", OPEN5, turn=90, after=turned(0, -1, 1, 0), size=(64, 64)),
    "h264_mirror_mp4": Film("libx264", ".mp4", CLOSED, mirror=True, after=turned(-1, 0, 0, 1)),
}
