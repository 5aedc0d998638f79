"""Pictures are read as a viewer shows them, whatever their file, and masks as what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mtpeft.data.dense.folders import binary, read_mask, read_normals
from mtpeft.data.reading import as_rgb, item_pixels, read_image, read_values
from mtpeft.data.to_images import build_images, to_images
from mtpeft.errors import DataError

RAMP = np.arange(0, 256, 17, dtype=np.uint8).reshape(4, 4)  # 0, 17, ..., 255
GREY = np.repeat(RAMP[..., None], 3, axis=2)
CONFIG: dict[str, Any] = {"input_size": (3, 4, 4), "mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 1.0}


def palette(indices: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(colours)
    return image


INVERTED = [255 - value for value in range(256) for _ in range(3)]
SEE_THROUGH = np.dstack([GREY, np.where(RAMP < 128, 0, 255).astype(np.uint8)])
PICTURES: dict[str, tuple[Any, str, Any]] = {
    "8 bits": (Image.fromarray(RAMP), "png", GREY),
    "RGB": (Image.fromarray(GREY), "png", GREY),
    "16 bits": (Image.fromarray(RAMP.astype(np.uint16) * 257), "png", GREY),
    "16 bits of a TIFF": (Image.fromarray(RAMP.astype(np.uint16) * 257), "tiff", GREY),
    "16 bits of a PGM": (Image.fromarray(RAMP.astype(np.uint16) * 257), "pgm", GREY),
    "32 bits": (Image.fromarray(RAMP.astype(np.int32) * 257), "tiff", GREY),
    "32 bits, more than 16 used": (Image.fromarray(RAMP.astype(np.int32) * 10**6), "tiff", GREY),
    "floats to 1": (Image.fromarray(RAMP.astype(np.float32) / 255), "tiff", GREY),
    "floats to 255": (Image.fromarray(RAMP.astype(np.float32)), "tiff", GREY),
    "floats of another unit": (Image.fromarray(RAMP.astype(np.float32) * 40 - 1000), "tiff", GREY),
    "one bit": (Image.fromarray(RAMP > 100), "png", np.where(GREY > 100, 255, 0)),
    "palette": (palette(RAMP, INVERTED), "png", 255 - GREY),
    "grey with transparency": (Image.fromarray(SEE_THROUGH[..., 2:]), "png", np.where(GREY < 128, 255, GREY)),
    "colours with transparency": (Image.fromarray(SEE_THROUGH), "png", np.where(GREY < 128, 255, GREY)),
    "palette with transparency": (palette(RAMP, INVERTED), "gif", np.where(GREY == 17, 255, 255 - GREY)),
    "CMYK": (Image.fromarray(GREY).convert("CMYK"), "tiff", GREY),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_file_is_read_as_it_is_seen(name: str, tmp_path: Path) -> None:
    image, suffix, expected = PICTURES[name]
    path = tmp_path / f"a.{suffix}"
    image.save(path, **({"transparency": 17} if suffix == "gif" else {}))
    pixels = read_image(path)
    assert pixels.dtype == np.uint8 and pixels.shape == (4, 4, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    # The same file as an item of a data set, and in a folder of images, gives the same.
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(item_pixels(opened, "a")), pixels)
    (tmp_path / "train/one").mkdir(parents=True)
    path.rename(tmp_path / f"train/one/a.{suffix}")
    if suffix != "gif":  # torchvision's folders take no GIF
        images = build_images({"type": "ImageFolder", "root": str(tmp_path)}, CONFIG, train=True)
        assert np.array_equal(images.raw(0).numpy().transpose(1, 2, 0), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    pixels = np.zeros((16, 24, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = [
        pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1], pixels.transpose(1, 0, 2),
        np.rot90(pixels, -1), pixels.transpose(1, 0, 2)[::-1, ::-1], np.rot90(pixels),
    ]  # fmt: skip
    assert np.array_equal(read_image(tmp_path / "a.png"), turned[orientation - 1])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "mask.png", exif=exif)
    assert np.array_equal(read_values(tmp_path / "mask.png"), turned[orientation - 1][..., 0])


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY // (i + 1)) for i in range(3)]
    for suffix in ("gif", "tiff"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - GREY).max() <= 1


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, b"GIF89a" + b"\xff" * 30, b"II*\x00" + b"\xff" * 30],
)
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: the image cannot be read") as caught:
        read_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "gif", "bmp"])
def test_truncated_files_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"a\.{suffix}: the image cannot be read"):
        read_image(path)


ITEMS = {
    "uint8 (H, W)": RAMP,
    "uint8 (H, W, 1)": RAMP[..., None],
    "uint8 (H, W, 3)": GREY,
    "uint16": RAMP.astype(np.uint16) * 257,
    "big-endian uint16": (RAMP.astype(np.uint16) * 257).astype(">u2"),
    "int64 to 255": RAMP.astype(np.int64),
    "int32 to 65535": RAMP.astype(np.int32) * 257,
    "float64 to 1": RAMP / 255,
    "float32 to 255": RAMP.astype(np.float32),
    "tensor (1, H, W)": torch.from_numpy(RAMP)[None],
    "tensor (H, W)": torch.from_numpy(RAMP),
    "tensor (3, H, W)": torch.from_numpy(GREY).permute(2, 0, 1),
    "float tensor to 1": torch.from_numpy(GREY).permute(2, 0, 1) / 255,
    "float tensor to 255": torch.from_numpy(GREY).permute(2, 0, 1).float(),
    "half tensor": (torch.from_numpy(GREY).permute(2, 0, 1) / 255).half(),
    "PIL of 16 bits": Image.fromarray(RAMP.astype(np.uint16) * 257),
    "PIL of floats": Image.fromarray(RAMP.astype(np.float32) / 255),
    "PIL with a palette": palette(RAMP, [value for value in range(256) for _ in range(3)]),
}


class Items:
    """A data set of one's own: the same item `count` times, then others."""

    classes = ("a", "b")

    def __init__(self, *items: Any) -> None:
        self.items, self.targets = items, [index % 2 for index in range(len(items))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.items[index], self.targets[index]


@pytest.mark.parametrize("name", ITEMS)
def test_items_of_python_data_sets_are_read_by_their_type(name: str) -> None:
    images = to_images(Items(ITEMS[name], ITEMS[name]), CONFIG)
    pixels = images.raw(1)
    assert pixels.dtype == torch.uint8
    assert np.abs(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy().astype(int) - GREY).max() <= 1
    assert torch.allclose(images.batch([1])[0][0].permute(1, 2, 0), torch.from_numpy(GREY) / 255, atol=0.005)


@pytest.mark.parametrize(
    "item",
    [
        torch.full((3, 4, 4), -1.5),
        torch.full((3, 4, 4), 256.5),
        torch.full((3, 4, 4), torch.nan),
        np.full((4, 4), -0.1),
        np.full((4, 4), 70000),
        np.full((4, 4), -1),
        np.full((4, 4), 1 + 2j),
        torch.zeros(2, 4, 4),
        np.zeros((4, 4, 7)),
        "a.png",
    ],
)
def test_items_that_are_no_picture_are_refused_in_a_line(item: Any) -> None:
    with pytest.raises(DataError, match="Items: image 0") as caught:
        to_images(Items(item), CONFIG).raw(0)
    assert "\n" not in str(caught.value)


def test_a_dark_image_of_a_data_set_of_floats_stays_dark() -> None:
    dark = torch.full((3, 4, 4), 1.0)
    images = to_images(Items(dark, torch.full((3, 4, 4), 200.0)), CONFIG)
    assert images.raw(0).max() == 1 and images.raw(1).min() == 200
    ones = to_images(Items(*[dark] * 8, *[dark] * 8, *[torch.full((3, 4, 4), 3.0)] * 1), CONFIG)
    assert ones.raw(0).max() == 1, "the last of the images that are looked at is beyond 1"


def test_what_the_items_show_counts_not_the_arrays_kept_beside_them() -> None:
    class Changed(Items):
        data = np.zeros((2, 4, 4), dtype=np.uint8)

    assert to_images(Changed(RAMP, RAMP), CONFIG).raw(0).max() == 255
    wrong = Items(RAMP, RAMP)
    wrong.__class__ = type("Other", (Items,), {"__getitem__": lambda self, index: (RAMP, 1)})
    with pytest.raises(DataError, match="item 0 has label 1, but its `targets` say 0"):
        to_images(wrong, CONFIG)
    wrong.__class__ = type("Three", (Items,), {"__getitem__": lambda self, index: (RAMP, RAMP, 0)})
    with pytest.raises(DataError, match=r"item 0 is 3 parts, expected \(image, label\)"):
        to_images(wrong, CONFIG)


# masks ---------------------------------------------------------------------------------------------------------------

ON = np.array([[0, 1, 1], [0, 0, 1]], dtype=np.uint8)
MASKS: dict[str, Any] = {
    "one bit": Image.fromarray(ON.astype(bool)),
    "0 and 1": Image.fromarray(ON),
    "0 and 255": Image.fromarray(ON * 255),
    "palette, 0 and 1": palette(ON, INVERTED),
    "palette, 0 and 255": palette(ON * 255, INVERTED),
    "soft": Image.fromarray(np.where(ON == 1, 140, 90).astype(np.uint8)),
    "16 bits": Image.fromarray(np.where(ON == 1, 65535, 0).astype(np.uint16)),
    "npy of bool": ON.astype(bool),
    "npy of 0 and 1": ON.astype(np.float64),
    "npy of 0 and 255": ON * 255,
    "npy of floats to 255": ON * 255.0,
    "npy with a last axis": ON[..., None],
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_read_as_what_they_mean(name: str, tmp_path: Path) -> None:
    mask = MASKS[name]
    path = tmp_path / ("m.npy" if isinstance(mask, np.ndarray) else "m.png")
    np.save(path, mask) if isinstance(mask, np.ndarray) else mask.save(path)
    assert read_mask(tmp_path, "m", path).tolist() == ON.tolist()


def test_ignored_and_constant_masks() -> None:
    assert binary(np.array([[0, 1, 255]], dtype=np.uint8), "m").tolist() == [[0, 1, 255]]
    for value, meant in ((0, 0), (1, 1), (255, 1)):
        assert binary(np.full((2, 2), value, dtype=np.uint8), "m").tolist() == [[meant] * 2] * 2
    for wrong in (np.zeros((2, 2, 3)), np.full((2, 2), np.nan), np.full((2, 2), -1.0)):
        with pytest.raises(DataError, match="m: the mask has"):
            binary(wrong, "m")


def test_labels_are_read_as_stored(tmp_path: Path) -> None:
    wide = np.array([[0, 1, 300], [65535, 256, 255]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert read_values(tmp_path / "a.png").tolist() == wide.tolist()
    palette(ON * 7, INVERTED).save(tmp_path / "p.png")
    assert read_values(tmp_path / "p.png").tolist() == (ON * 7).tolist()
    Image.fromarray(ON.astype(bool)).save(tmp_path / "b.png")
    assert read_values(tmp_path / "b.png").tolist() == ON.tolist() and read_values(tmp_path / "b.png").dtype == np.uint8


def test_normals_of_another_code_are_refused(tmp_path: Path) -> None:
    for wrong, words in (
        (np.full((2, 2, 3), 128.0), "length 221.7"),
        (np.full((2, 2, 3), np.nan), "not finite"),
        (np.zeros((2, 2)), r"shape \(2, 2\)"),
        (np.zeros((2, 2, 4)), r"shape \(2, 2, 4\)"),
    ):
        np.save(tmp_path / "n.npy", wrong)
        with pytest.raises(DataError, match=rf"n\.npy: .*{words}"):
            read_normals(tmp_path, "n", tmp_path / "n.npy")
    Image.fromarray(ON).save(tmp_path / "n.png")
    with pytest.raises(DataError, match=r"n\.png: the normals have shape \(2, 3\)"):
        read_normals(tmp_path, "n", tmp_path / "n.png")


MODES = ("1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F")


@pytest.mark.parametrize("mode", [*MODES, "I;16", "I;16B", "I;16L"])
def test_every_mode_of_pil_becomes_rgb(mode: str) -> None:
    assert as_rgb(Image.new(mode, (3, 2)), "x").mode == "RGB"
