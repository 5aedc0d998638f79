"""Pictures and label files: the one place that reads them.

A picture is read as a person sees it in a viewer, whatever its file: turned as its EXIF orientation says, transparent
parts on white, palettes applied, 1-bit, 16-bit and floating-point values brought to 0..255. Colour profiles are not
applied. Of several frames or pages the first is taken. A label is read as it is stored, turned as its EXIF orientation
says and nothing else.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, features

from mtpeft.errors import DataError

Array = np.ndarray

READ_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, NotImplementedError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What readers of images, npy and mat files raise for a damaged file."""
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as in a viewer."""
ORIENTATION = 0x0112
"""EXIF's tag."""
INTEGERS = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""PIL's modes of 16 and 32 bits."""


def read_picture(path: str | Path) -> Image.Image:
    """The file as a PIL image of mode RGB, as it is seen. Raises `DataError` with the path for a damaged file."""
    try:
        with Image.open(path) as image:
            return as_rgb(image, str(path))
    except READ_ERRORS as error:
        raise DataError(f"{path}: the image cannot be read: {' '.join(str(error).split())}") from error


def read_image(path: str | Path) -> Array:
    """The same as uint8 (H, W, 3)."""
    return np.asarray(read_picture(path))


def read_values(path: Path) -> Array:
    """The numbers in an image file as stored (a palette's indices, 0 and 1 of one bit, 16 bits whole), or in a .npy."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image)
        values = np.asarray(turned)
    return values.astype(np.uint8) if values.dtype == bool else values


def decoder() -> str:
    """What reads pictures: Pillow and its JPEG library, with their versions."""
    turbo = features.version_feature("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    return f"Pillow {PIL.__version__} ({jpeg})"


def file_type(path: str | Path) -> str:
    """Format and PIL mode of a file, and what is particular about it: "PNG P, transparent", "JPEG RGB, turned by EXIF"."""
    if Path(path).suffix == ".npy":
        values = np.load(path, allow_pickle=False, mmap_mode="r")
        return f"NPY {values.dtype}"
    with Image.open(path) as image:
        remarks = [
            ("transparent", image.has_transparency_data),
            ("turned by EXIF", image.getexif().get(ORIENTATION, 1) != 1),
            ("several frames", getattr(image, "n_frames", 1) > 1),
        ]
        return ", ".join([f"{image.format} {image.mode}", *(text for text, holds in remarks if holds)])


def as_rgb(image: Image.Image, where: str) -> Image.Image:
    """A PIL image of any mode as one of mode RGB. Raises `DataError` that names `where` for values that cannot be shown."""
    see_through = image.info.get("transparency")
    top = 65535.0 if image.mode == "I" and image.format in ("PNG", "PPM") else None  # files of at most 16 bits
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and see_through is None:
        return image
    if image.mode in INTEGERS or image.mode == "F":
        values = np.asarray(image)
        shown = np.repeat(to_bytes(values, where, stored=True, top=top)[..., None], 3, axis=2)
        if isinstance(see_through, int):
            shown[values == see_through] = BACKGROUND
        return Image.fromarray(shown)
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if see_through is None and not image.has_transparency_data:
        return image.convert("RGB")
    whole = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", whole.size, (*BACKGROUND, 255)), whole).convert("RGB")


def to_bytes(values: Array, where: str, stored: bool = False, top: float | None = None) -> Array:
    """Numbers of any type and shape to uint8: scaled by what the type can hold, floats by their range.

    bool is 0 and 255; uint16 has 16 bits, other integers have 8 where none is above 255, else 16. Floats are from 0 to 1
    where none is above 1, else from 0 to 255; `top` says which, if it is known of the data set. Others are a `DataError`
    that names `where`, or with `stored` (the pixels of a file, which may have any unit) spread from the least to the
    greatest.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "uif":
        raise DataError(f"{where}: pixels of type {values.dtype}; give numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{where}: a pixel is not finite")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    limit = top or _limit(values.dtype, high)
    if low < 0 or high > limit:
        if not stored:
            allowed = f"0 to {limit:g}" if top else "0 to 1, or 0 to 255, or 16-bit integers"
            raise DataError(
                f"{where}: pixels from {low:.4g} to {high:.4g}, expected {allowed}; leave normalisation out, the "
                "backbone's mean and std are applied to pictures"
            )
        values, limit = values.astype(np.float64) - low, max(high - low, 1e-12)
    return np.round(values.astype(np.float64) * (255 / limit)).astype(np.uint8)


def _limit(kind: np.dtype[Any], high: float) -> float:
    """The value that white has."""
    if kind.kind == "f":
        return 1.0 if high <= 1 else 255.0
    return 255.0 if high <= 255 and not (kind.kind == "u" and kind.itemsize == 2) else 65535.0


def item_pixels(item: Any, where: str, top: float | None = None) -> Image.Image | torch.Tensor:
    """What a data set gives as a picture: PIL images and arrays (H, W[, C]) as PIL, tensors (C, H, W) as uint8 tensors.

    C is 1, or 3, or 4 with transparency. Raises `DataError` that names `where` for other shapes, types or values.
    """
    if isinstance(item, Image.Image):
        return as_rgb(item, where)
    if isinstance(item, torch.Tensor):
        values = item.detach().cpu()
        values = values[None] if values.ndim == 2 else values
        if values.ndim != 3 or values.shape[0] not in (1, 3, 4):
            raise DataError(f"{where} has shape {tuple(item.shape)}, expected (1 or 3, H, W)")
        shown = to_bytes(values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy(), where, top=top)
        if shown.shape[0] < 4:
            return torch.from_numpy(np.ascontiguousarray(shown))
        picture = as_rgb(Image.fromarray(np.ascontiguousarray(shown.transpose(1, 2, 0))), where)
        return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
    if isinstance(item, np.ndarray):
        array = item[..., 0] if item.ndim == 3 and item.shape[-1] == 1 else item
        if array.ndim != 2 and not (array.ndim == 3 and array.shape[-1] in (3, 4)):
            raise DataError(f"{where} is an array of shape {item.shape}, expected (H, W), or (H, W, 1, 3 or 4)")
        return as_rgb(Image.fromarray(np.ascontiguousarray(to_bytes(array, where, top=top))), where)
    raise DataError(f"{where} is a {type(item).__name__}, expected a PIL image, an array or a tensor")
