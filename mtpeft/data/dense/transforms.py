"""Transforms of an image together with its labels.

Geometry is changed as a camera would change it: what that does to a label is for its kind to say (`Kind.flipped`,
`Kind.enlarged`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from mtpeft.data.dense.sample import Sample
from mtpeft.dense.kinds import KINDS, Kind
from mtpeft.errors import ConfigError
from mtpeft.options import check_options
from mtpeft.registry import Registry

Array = np.ndarray
Kinds = Mapping[str, str]


class Transform(Protocol):
    """Gives a new sample; `kinds` maps tasks to the kind of their label, random numbers come from `rng` alone.

    One with a true attribute `fixed` uses none.
    """

    def __call__(self, sample: Sample, kinds: Kinds, rng: np.random.Generator) -> Sample:
        """The changed sample."""
        ...


TRANSFORMS: Registry[Callable[..., Transform]] = Registry("transform")


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with probability `p`; the x of normals changes its sign (`Kind.flipped`)."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ConfigError(f"transform 'flip': p is {self.p}, expected a probability from 0 to 1")

    def __call__(self, sample: Sample, kinds: Kinds, rng: np.random.Generator) -> Sample:
        """Mirrored or not."""
        if rng.random() >= self.p:
            return sample
        labels = {task: _kind(kinds, task).flipped(label) for task, label in sample.labels.items()}
        return Sample(sample.image[:, ::-1], labels, sample.name)


@dataclass(frozen=True)
class Scale:
    """Enlarge by a factor s drawn uniformly from `low` to `high`; depth is divided by s (`Kind.enlarged`), normals stay.

    What looks s times larger is taken to be s times nearer, as published joint training does. Dividing all depths by one
    number shrinks the scene about the camera and turns no surface. The image grows or shrinks: a `crop` after it brings
    all to one size.
    """

    low: float = 0.75
    high: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ConfigError(f"transform 'scale': low {self.low} and high {self.high}, expected 0 < low <= high")

    def __call__(self, sample: Sample, kinds: Kinds, rng: np.random.Generator) -> Sample:
        """Enlarged."""
        factor = rng.uniform(self.low, self.high)
        height, width = (max(1, round(n * factor)) for n in sample.image.shape[:2])
        scaled = _resized(sample, height, width)
        labels = {task: _kind(kinds, task).enlarged(label, factor) for task, label in scaled.labels.items()}
        return Sample(scaled.image, labels, scaled.name)


@dataclass(frozen=True)
class Crop:
    """Cut out `size` (a side, or height and width) at a random place; smaller images are padded.

    Padding is black, ignored by classes and invalid elsewhere.
    """

    size: int | Sequence[int]

    def __post_init__(self) -> None:
        _two("crop", self.size)

    def __call__(self, sample: Sample, kinds: Kinds, rng: np.random.Generator) -> Sample:
        """Cut out."""
        target = np.array(_two("crop", self.size))
        room = np.array(sample.image.shape[:2]) - target
        # Where the image is larger, the window moves over it; where it is smaller, the image moves within the window.
        offset = np.sign(room) * rng.integers(0, np.abs(room) + 1)
        labels = {
            task: _window(label, offset, target, _kind(kinds, task).layout.fill)
            for task, label in sample.labels.items()
        }
        return Sample(_window(sample.image, offset, target, 0), labels, sample.name)

    def fitting(self, size: tuple[int, int]) -> tuple[int, int]:
        """The height and width to which a larger picture shrinks to lie within; `size` itself where it does."""
        factor = min(1.0, *(t / s for t, s in zip(_two("crop", self.size), size, strict=True)))
        return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))

    def padded(self, sample: Sample) -> tuple[Sample, tuple[int, int]]:
        """An image without labels that lies within, in the middle of `size`, and the place of its corner there."""
        target = np.array(_two("crop", self.size))
        top, left = (int(n) for n in (target - sample.image.shape[:2]) // 2)
        return Sample(_window(sample.image, np.array((-top, -left)), target, 0), {}, sample.name), (top, left)


@dataclass(frozen=True)
class Resize:
    """Bring to `size` (a side, or height and width): the image averaged, labels by the nearest pixel.

    Depth keeps its values: the picture is taken to show the same scene with another number of pixels.
    """

    fixed: ClassVar[bool] = True
    size: int | Sequence[int]

    def __post_init__(self) -> None:
        _two("resize", self.size)

    def __call__(self, sample: Sample, kinds: Kinds, rng: np.random.Generator) -> Sample:
        """Of the new size."""
        return _resized(sample, *_two("resize", self.size))


@dataclass(frozen=True)
class Photometric:
    """Change brightness, contrast and saturation of the image, each by a factor from 1 - x to 1 + x; labels stay."""

    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"transform 'photometric': {name} is {getattr(self, name)}, expected 0 to 1")

    def __call__(self, sample: Sample, kinds: Kinds, rng: np.random.Generator) -> Sample:
        """With another light."""
        spread = np.array([self.brightness, self.contrast, self.saturation])
        bright, contrast, saturation = 1 + rng.uniform(-1, 1, 3) * spread
        image = sample.image.astype(np.float32) * bright
        image = image.mean() + (image - image.mean()) * contrast
        gray = (image @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]  # luma of ITU-R BT.601
        image = gray + (image - gray) * saturation
        return Sample(np.clip(np.round(image), 0, 255).astype(np.uint8), dict(sample.labels), sample.name)


for _name, _transform in (
    ("flip", Flip),
    ("scale", Scale),
    ("crop", Crop),
    ("resize", Resize),
    ("photometric", Photometric),
):
    TRANSFORMS.add(_name, _transform)


class Compose:
    """Several transforms one after the other."""

    def __init__(self, transforms: Sequence[Transform], configs: Sequence[Mapping[str, Any]] = ()) -> None:
        """`configs` are what they were built from."""
        self.transforms, self.configs = tuple(transforms), [dict(config) for config in configs]

    def __call__(self, sample: Sample, kinds: Kinds, rng: np.random.Generator) -> Sample:
        """Apply all."""
        for transform in self.transforms:
            sample = transform(sample, kinds, rng)
        return sample


def build_transforms(configs: Sequence[Mapping[str, Any]]) -> Compose:
    """Transforms from configs such as `dict(name="flip", p=0.5)`, in their order.

    Raises `UnknownNameError` for a name, `ConfigError` for an option a transform does not have.
    """
    built = []
    for position, config in enumerate(configs):
        options = dict(config)
        name = options.pop("name", None)
        if name is None:
            raise ConfigError(f"transform {position}: key 'name' is missing in {dict(config)}")
        factory = TRANSFORMS.get(str(name), f"transform {position}")
        check_options(f"transform {name!r}", factory, options)
        built.append(factory(**options))
    return Compose(built, configs)


def _kind(kinds: Kinds, task: str) -> type[Kind]:
    return KINDS.get(kinds[task], f"task {task!r}")


def _resized(sample: Sample, height: int, width: int) -> Sample:
    if sample.image.shape[:2] == (height, width):
        return Sample(sample.image, dict(sample.labels), sample.name)
    image = Image.fromarray(np.ascontiguousarray(sample.image)).resize((width, height), Image.Resampling.BILINEAR)
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip((height, width), sample.image.shape[:2], strict=True)
    )
    labels = {task: label[rows[:, None], columns] for task, label in sample.labels.items()}
    return Sample(np.asarray(image), labels, sample.name)


def _window(array: Array, offset: Array, size: Array, fill: float) -> Array:
    """`size` pixels of `array` from `offset` on, which may be negative; `fill` where the array has no pixel."""
    result = np.full((*size, *array.shape[2:]), fill, dtype=array.dtype)
    start, end = np.maximum(offset, 0), np.minimum(offset + size, array.shape[:2])
    (top, left), (bottom, right) = start - offset, end - offset
    result[top:bottom, left:right] = array[start[0] : end[0], start[1] : end[1]]
    return result


def _two(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else tuple(size) if len(size) == 2 else (0, 0)
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise ConfigError(f"transform {name!r}: size is {size!r}, expected a number of pixels or (height, width)")
    return height, width
