"""How a task's test data are made ready for the backbone, in plain types, and the same done to what a user has.

`describe_input` says it of a part of a data set, `build_input` makes of that what reads pictures or videos as the part
does: a picture goes to a model exactly as a test picture of the run.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtpeft.data.augment import to_picture
from mtpeft.data.dense.batch import DenseView
from mtpeft.data.dense.sample import Sample
from mtpeft.data.dense.transforms import Crop, Resize, build_transforms
from mtpeft.data.images import Images, TensorImages
from mtpeft.data.item_images import ItemImages
from mtpeft.data.reading import item_pixels, read_picture
from mtpeft.data.transforms import InputTransform
from mtpeft.data.video.clips import Clips
from mtpeft.data.video.decoding import TIME_LIMIT, read_clip
from mtpeft.data.video.sampling import build_sampling, describe_sampling
from mtpeft.data.video.transforms import ClipTransform
from mtpeft.errors import ConfigError, DataError, UnknownNameError
from mtpeft.options import Count, Positive, check_options

#: ends of names of files that are videos; anything else may be a picture
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv")
#: top, left, height and width in pixels
Window = tuple[int, int, int, int]
#: what a user may give for one input
Item = Any


@dataclasses.dataclass(frozen=True)
class Shown:
    """One input ready for the backbone: `x` float32 (3, H, W), or of clips (3, T, H, W), or (V, 3, T, H, W) in V views.

    `picture` is the input itself, uint8 (h, w, 3), and `window` where it lies in `x`, (top, left, height, width); both
    where a map is wanted.
    """

    x: Tensor
    picture: np.ndarray | None = None
    window: Window | None = None


class Input(Protocol):
    """Makes ready what a user has."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Ends of names of files it takes, lower case."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of every `x`; None where they follow from the input."""

    def single(self, value: Any) -> bool:
        """Whether a value is one input, not several."""

    def show(self, item: Item, where: str) -> Shown:
        """One input; raises `DataError` that names `where` for what it is not or cannot be read."""


def describe_input(part: Any) -> dict[str, Any]:
    """How a part of a data set (`Images`, `Clips` or `DenseView`) is shown, in plain types."""
    if isinstance(part, Clips):
        dataset = part.dataset
        return {
            "shows": "clips",
            "sampling": describe_sampling(dataset.sampling),
            "transform": dataclasses.asdict(dataset.transform),
            "views": dataset.views,
            "crops": dataset.crops,
            "decoder": dataset.decoder,
            "limit": dataset.limit,
        }
    if isinstance(part, DenseView):
        transforms = [] if part.transforms is None else part.transforms.configs
        return {"shows": "maps", "transforms": transforms, "mean": part.mean, "std": part.std}
    assert isinstance(part, Images) and part.transform is not None
    whole, white = isinstance(part, TensorImages), part.white if isinstance(part, ItemImages) else None
    described = part.transform.plain().describe()
    del described["augment"]
    return {"shows": "images", "whole": whole, "white": white, "transform": described}


def build_input(described: Mapping[str, Any], where: str) -> Input:
    """What `describe_input` described. Raises `ConfigError` that names `where` for what it did not."""
    options = dict(described)
    shows = options.pop("shows", None)
    if shows not in INPUTS:
        raise UnknownNameError("input", shows, INPUTS, where)
    return INPUTS[shows](**check_options(f"{where}: input", INPUTS[shows], options))


class ImageInput:
    """Pictures as a stream's test images: uint8 at the backbone's size, then normalised."""

    ends = tuple(end for end in Image.registered_extensions() if end not in VIDEOS)

    def __init__(self, transform: dict[str, Any], whole: bool, white: float | None) -> None:
        """`whole`: pictures are resized as they are, nothing cropped. `white`: that of float pictures, 1 or 255."""
        self.transform = InputTransform(**check_options("transform", InputTransform, transform, given=("augment",)))
        self.whole, self.white = whole, white

    @property
    def size(self) -> tuple[int, int]:
        """The backbone's."""
        return self.transform.size

    def single(self, value: Any) -> bool:
        """A path, a PIL image, an array (H, W[, C]) or a tensor ([C,] H, W)."""
        return is_picture(value)

    def show(self, item: Item, where: str) -> Shown:
        """A path, a PIL image, an array (H, W[, C]) or a tensor (C, H, W), as `item_pixels` reads them.

        A tensor of the backbone's size is taken as it is, as that of a data set.
        """
        pixels = picture_of(item, where, self.white)
        if isinstance(pixels, Tensor) and tuple(pixels.shape[-2:]) == self.size:
            return Shown(self.transform.finish(pixels[None])[0])
        if self.whole:
            plain = pixels if isinstance(pixels, Tensor) else _tensor(np.asarray(pixels))
            return Shown(self.transform.finish(self.transform.resize(plain[None]))[0])
        return Shown(self.transform(_pil(pixels)))


class MapInput:
    """Pictures as the test images of dense tasks: of their own size but for `resize` and `crop`, then normalised."""

    ends = ImageInput.ends
    size = None

    def __init__(self, transforms: list[dict[str, Any]], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """`transforms` are those of the validation part. Raises `ConfigError` for one that draws at random."""
        steps = build_transforms(transforms).transforms
        for config, step in zip(transforms, steps, strict=True):
            if not isinstance(step, (Resize, Crop)):
                raise ConfigError(
                    f"transforms.val has {config['name']!r}, so that the run was evaluated on changed pictures; only "
                    "'resize' and 'crop' can be undone in a prediction"
                )
        self.steps = steps
        #: the size that the model takes nearest to one that it may not take
        self.fit: Callable[[tuple[int, int]], tuple[int, int]] = lambda size: size
        self.mean, self.std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))

    def single(self, value: Any) -> bool:
        """A path, a PIL image, an array (H, W[, C]) or a tensor ([C,] H, W)."""
        return is_picture(value)

    def show(self, item: Item, where: str) -> Shown:
        """A path, a PIL image, an array or a tensor, as `item_pixels` reads them.

        A `crop` cuts nothing off: pictures lie in its middle, larger ones made smaller to fit. Of a size that the model does
        not take they are resized at the end.
        """
        picture = np.asarray(_pil(picture_of(item, where)))
        sample, window = Sample(picture, {}, where), (0, 0, *picture.shape[:2])
        for step in self.steps:
            if isinstance(step, Crop):
                sample, window = _resized(Resize(step.fitting(sample.image.shape[:2])), sample, window)
                sample, (top, left) = step.padded(sample)
                window = (window[0] + top, window[1] + left, *window[2:])
            else:
                sample, window = _resized(step, sample, window)
        sample, window = _resized(Resize(self.fit(sample.image.shape[:2])), sample, window)
        pixels = _tensor(sample.image).float() / 255
        return Shown((pixels - self.mean) / self.std, picture, window)


class ClipInput:
    """Videos as a stream's test clips."""

    ends = (*VIDEOS, ".gif")
    size = None

    def __init__(
        self,
        sampling: dict[str, Any],
        transform: dict[str, Any],
        views: Count,
        crops: Count,
        decoder: str,
        limit: Positive | None = TIME_LIMIT,
    ) -> None:
        """`sampling` and `transform` as keywords of `build_sampling` and `ClipTransform`."""
        self.sampling = build_sampling(**check_options("sampling", build_sampling, sampling))
        self.transform = ClipTransform(**check_options("transform", ClipTransform, transform))
        self.views, self.crops, self.decoder, self.limit = views, crops, decoder, limit
        self.size = (self.transform.size, self.transform.size)

    def single(self, value: Any) -> bool:
        """A path, or an array or tensor of frames (T, H, W, 3)."""
        return isinstance(value, (str, os.PathLike)) or (isinstance(value, (np.ndarray, Tensor)) and value.ndim == 4)

    def show(self, item: Item, where: str) -> Shown:
        """A path, or the frames of a whole video, uint8 (T, H, W, 3)."""

        def choose(count: int) -> np.ndarray:
            return self.sampling.test(count, self.views)

        if isinstance(item, (str, os.PathLike)):
            path = Path(item)
            if path.suffix.lower() in ImageInput.ends and path.suffix.lower() not in self.ends:
                raise DataError(f"{path}: an image, and the model takes videos")
            frames = read_clip(path, choose, self.decoder, self.limit).frames
        else:
            values = item.detach().cpu().numpy() if isinstance(item, Tensor) else item
            if (
                not isinstance(values, np.ndarray)
                or values.ndim != 4
                or values.shape[-1] != 3
                or values.dtype != np.uint8
            ):
                found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(item).__name__
                raise DataError(f"{where}: {found}; a clip is a file, or uint8 frames (T, H, W, 3)")
            if not len(values):
                raise DataError(f"{where}: a clip without a frame")
            frames = values[np.asarray(choose(len(values))).reshape(-1)]
        clips = self.transform.test(frames, self.crops, self.views)
        return Shown(clips[0] if len(clips) == 1 else clips)


INPUTS: dict[str, Any] = {"images": ImageInput, "maps": MapInput, "clips": ClipInput}


def _resized(step: Any, sample: Sample, window: Window) -> tuple[Sample, Window]:
    """The picture resized, and where its window lies then."""
    height, width = sample.image.shape[:2]
    sample = step(sample, {}, np.random.default_rng(0))
    down, across = sample.image.shape[0] / height, sample.image.shape[1] / width
    top, left, rows, columns = window
    return sample, (round(top * down), round(left * across), round(rows * down), round(columns * across))


def is_picture(value: Any) -> bool:
    """Whether a value is one picture: a path, a PIL image, an array (H, W[, C]) or a tensor ([C,] H, W)."""
    if isinstance(value, (np.ndarray, Tensor)):
        return value.ndim in (2, 3)
    return isinstance(value, (str, os.PathLike, Image.Image))


def picture_of(item: Item, where: str, white: float | None = None) -> Image.Image | Tensor:
    """One picture: a PIL image of mode RGB, or of a tensor the uint8 tensor (1 or 3, H, W)."""
    if not isinstance(item, (str, os.PathLike)):
        return item_pixels(item, where, white)
    path = Path(item)
    if path.suffix.lower() in VIDEOS:
        raise DataError(f"{path}: a video, and the model takes images")
    return read_picture(path)


def _tensor(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _pil(pixels: Image.Image | Tensor) -> Image.Image:
    return pixels if isinstance(pixels, Image.Image) else to_picture(pixels)
