"""Video data sets by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtpeft.data.video.annotations import diving48, hmdb51, kinetics, something_v2, ucf101
from mtpeft.data.video.check import check_videos
from mtpeft.data.video.dataset import VideoDataset
from mtpeft.data.video.decoding import TIME_LIMIT
from mtpeft.data.video.generated import GeneratedVideos, generated_listing
from mtpeft.data.video.motion.classes import GROUPS
from mtpeft.data.video.motion.listing import motion, motion_classes
from mtpeft.data.video.options import augmentation, check_types
from mtpeft.data.video.records import Listing, missing_files, usable
from mtpeft.data.video.sampling import build_sampling
from mtpeft.data.video.transforms import ClipTransform
from mtpeft.errors import ConfigError
from mtpeft.options import check_options
from mtpeft.registry import Registry


@dataclass(frozen=True)
class VideoSource:
    """`listing`: a function of `split` and options of its own (such as `root`) that lists the files.

    For what is done without its files: `num_classes` of the published data set, and where the options alone say what the
    classes are, their `names` as a function of the options.
    """

    listing: Callable[..., Listing]
    num_classes: int
    names: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None


VIDEO_DATASETS: Registry[VideoSource] = Registry("video data set")

SPLITS = ("train", "val", "test")

for _name, _source in (
    ("kinetics", VideoSource(kinetics, 400)),
    ("something_v2", VideoSource(something_v2, 174)),
    ("hmdb51", VideoSource(hmdb51, 51)),
    ("ucf101", VideoSource(ucf101, 101)),
    ("diving48", VideoSource(diving48, 48)),
    (
        "motion",
        VideoSource(motion, len(motion_classes()), lambda options: motion_classes(options.get("groups", GROUPS))),
    ),
):
    VIDEO_DATASETS.add(_name, _source)


def build_video_dataset(
    name: str,
    split: str,
    *,
    frames: int = 8,
    sampling: str = "segment",
    stride: int = 4,
    pad: str = "repeat",
    size: int = 224,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    crop_ratio: float = 1.0,
    augment: Mapping[str, Any] | None = None,
    views: int = 1,
    crops: int = 1,
    seed: int = 0,
    decoder: str = "decord",
    limit: float | None = TIME_LIMIT,
    cache_bytes: int = 0,
    max_bad_share: float = 0.0,
    check: bool = False,
    check_index: str | None = None,
    generated: int = 0,
    **options: Any,
) -> VideoDataset:
    """The data set registered as `name`; `split` is "train", "val" or "test", `options` are its own (such as `root`).

    `augment` sets fields of `ClipTransform`; `flip` is off by default where the direction is the class. Missing files
    (and, with `check`, unreadable ones, remembered in the file `check_index`) are left out up to `max_bad_share`.
    `generated` videos of noise of each class take the place of the files, which nothing looks for then: for plans.
    Raises `UnknownNameError` for the name, `ConfigError` for a split or option it does not have, `DataError` when more
    files are bad or the annotations are.
    """
    check_types(locals())
    source = VIDEO_DATASETS.get(name, "key data.name")
    if split not in SPLITS:
        raise ConfigError(f"data set {name!r} has no split {split!r}; use 'train', 'val' or 'test'")
    common = set(inspect.signature(build_video_dataset).parameters) - {"name", "split", "options"}
    check_options(f"data set {name!r}", source.listing, options, given=("split",), others=common, section="data")
    if generated:
        names = map(str, range(source.num_classes)) if source.names is None else source.names(options)
        kept = options.get("train_per_class" if split == "train" else "test_per_class", generated)
        listing = generated_listing(tuple(names), min(generated, kept))
    else:
        listing = source.listing(split=split, **options)
    bad = {} if generated else missing_files(listing.records)
    records = usable(listing.records, bad, max_bad_share, name)
    if check and not generated:
        unreadable = check_videos(records, decoder, limit or TIME_LIMIT, check_index)
        records = usable(listing.records, {**bad, **unreadable}, max_bad_share, name)
    shown = {"flip": 0.5 if listing.flip else 0.0, **augmentation({} if augment is None else augment)}
    transform = ClipTransform(size, tuple(mean), tuple(std), crop_ratio=crop_ratio, **shown)
    return (GeneratedVideos if generated else VideoDataset)(
        records,
        listing.classes,
        build_sampling(sampling, frames, stride, pad),
        transform,
        train=split == "train",
        seed=seed,
        views=views,
        crops=crops,
        decoder=decoder,
        limit=limit,
        cache_bytes=cache_bytes,
        max_bad_share=max_bad_share,
        name=f"{name} {split}",
    )
