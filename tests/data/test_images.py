"""From data sets to a backbone's input: size, channels, normalisation, augmentation, corruption, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader
from torchvision.transforms import ToTensor

from mtpeft.data.corruptions import build_corruption
from mtpeft.data.digits import Digits
from mtpeft.data.images import TensorImages
from mtpeft.data.item_images import ItemImages
from mtpeft.data.to_images import as_images, build_images, to_images
from mtpeft.data.transforms import Augment, build_transform
from mtpeft.errors import ConfigError, DataError, UnknownNameError

CONFIG: dict[str, Any] = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.25, 0.3),
    "crop_pct": 0.9,
    "crop_mode": "center",
}
RAMP = (torch.arange(5)[:, None, None, None] * 40 + torch.arange(32)).to(torch.uint8).expand(5, 3, 32, 32)


class Pictures:
    """PIL images of several sizes, two classes, as an image folder gives them."""

    classes = ("left", "right")
    targets = (0, 1, 0)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = np.random.default_rng(index).integers(0, 256, (50, 60 + index, 3), dtype=np.uint8)
        return Image.fromarray(pixels), self.targets[index]


class Tensors(Pictures):
    """Float tensors, one of another size."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return torch.full((3, 32, 28 if index == 2 else 32), float(index)), self.targets[index]


def test_the_transform_equals_timm_for_pil_images() -> None:
    config = resolve_model_data_config(timm.create_model("vit_tiny_patch16_224"))
    picture = Pictures()[0][0]
    expected = create_transform(**config, is_training=False)(picture)
    assert torch.allclose(build_transform(config)(picture), expected, atol=1e-6)


def test_small_grey_images_are_resized_whole_and_normalised() -> None:
    source = Digits(train=False)
    images = to_images(source, CONFIG, name="digits")
    assert isinstance(images, TensorImages)
    assert images.data.shape == (len(source), 1, 32, 32) and images.data.dtype == torch.uint8
    reference = np.asarray(source[3][0].resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(images.data[3, 0].numpy().astype(int) - reference).max() <= 1
    x, y = images.batch([3, 8])
    assert x.shape == (2, 3, 32, 32) and y.tolist() == [source.targets[3], source.targets[8]]
    for channel in range(3):
        expected = (images.data[3, 0] / 255 - CONFIG["mean"][channel]) / CONFIG["std"][channel]
        assert torch.allclose(x[0, channel], expected, atol=1e-5)


def test_a_data_set_with_its_own_transform_is_not_bypassed() -> None:
    with pytest.raises(DataError, match="image 0 is 8 x 8, but the backbone takes 32 x 32"):
        to_images(Digits(train=False, transform=ToTensor()), CONFIG).batch([0])


@pytest.mark.parametrize("kind", ["tensor", "items"])
def test_items_batches_and_loader_agree(kind: str) -> None:
    images = to_images(Digits(train=False) if kind == "tensor" else Pictures(), CONFIG)
    assert isinstance(images, TensorImages if kind == "tensor" else ItemImages)
    x, y = images.batch([0, 2])
    assert x.shape == (2, 3, 32, 32) and x.dtype == torch.float32
    for row, index in enumerate((0, 2)):
        item, label = images[index]
        assert torch.equal(item, x[row]) and label == y[row]
    loaded = next(iter(DataLoader(images.subset([0, 2]), batch_size=2)))
    assert torch.equal(loaded[0], x) and torch.equal(loaded[1], y)


def test_subset_maps_labels_and_class_names() -> None:
    images = to_images(Digits(train=False), CONFIG)
    chosen = [i for i, label in enumerate(images.targets) if label in (7, 3)]
    part = images.subset(chosen, {7: 0, 3: 1}, "sevens and threes")
    assert part.classes == ("7", "3") and part.name == "sevens and threes"
    assert part.targets == [0 if images.targets[i] == 7 else 1 for i in chosen]
    assert torch.equal(part.batch([4])[0], images.batch([chosen[4]])[0])
    items = to_images(Pictures(), CONFIG).subset([2, 0]).subset([1])
    assert torch.equal(items[0][0], to_images(Pictures(), CONFIG)[0][0])


def test_crop_moves_within_the_padding_and_flip_mirrors() -> None:
    images = torch.arange(1, 5 * 5 + 1, dtype=torch.uint8).view(1, 1, 5, 5).repeat(200, 1, 1, 1)
    cropped = Augment(crop_padding=1)(images)
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    allowed = {padded[0, y : y + 5, x : x + 5].numpy().tobytes() for y in range(3) for x in range(3)}
    assert {image[0].numpy().tobytes() for image in cropped} == allowed
    flipped = Augment(flip=True)(images)
    mirrored = [torch.equal(image, images[0].flip(-1)) for image in flipped]
    assert all(m or torch.equal(image, images[0]) for m, image in zip(mirrored, flipped, strict=True))
    assert 60 < sum(mirrored) < 140


def test_augmentation_is_for_training_only_and_can_be_removed() -> None:
    options = {"crop_padding": 4, "flip": True}
    train = to_images(Digits(), CONFIG, train=True, augment=options)
    test = to_images(Digits(), CONFIG, train=False, augment=options)
    plain = test.batch(range(64))[0]
    assert not torch.equal(train.batch(range(64))[0], plain)
    assert torch.equal(train.plain().batch(range(64))[0], plain)
    assert torch.equal(test.batch(range(64))[0], plain)


@pytest.mark.parametrize(
    ("augment", "words"),
    [({"flipp": True}, "augment takes no option 'flipp'. Did you mean 'flip'"), ({"crop_padding": -1}, "is -1")],
)
def test_wrong_augmentation(augment: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_transform(CONFIG, train=True, augment=augment)


def test_wrong_backbone_configuration() -> None:
    with pytest.raises(ConfigError, match="lacks mean, std"):
        build_transform({"input_size": (3, 32, 32)})
    with pytest.raises(ConfigError, match="takes 1 channels"):
        build_transform(CONFIG | {"input_size": (1, 32, 32)})


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([0, 2, 1], "label 2 at index 1, expected 0 to 1"),
        ([0, 1, -1], "label -1 at index 2, expected 0 to 1"),
        ([0, 1.5, 1], "label 1.5 at index 1, expected an int"),
        ([0, 1], "2 labels for 3 images"),
        (None, "no labels found"),
    ],
)
def test_labels_out_of_range_name_index_and_value(targets: Any, words: str) -> None:
    source = Pictures()
    source.targets = targets  # type: ignore[misc]
    with pytest.raises(DataError, match=f"pets: {words}"):
        to_images(source, CONFIG, name="pets")


def test_empty_data_sets_and_wrong_sizes() -> None:
    with pytest.raises(DataError, match="nothing: no image in it"):
        TensorImages("nothing", torch.zeros(0, 3, 32, 32, dtype=torch.uint8), [], ["a"])
    with pytest.raises(DataError, match="small: images of 8 x 8, but the backbone takes 32 x 32"):
        TensorImages("small", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [0], ["a"], build_transform(CONFIG))
    with pytest.raises(DataError, match=r"images of shape \(2, 3, 8, 8\) for 1 labels"):
        TensorImages("odd", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0], ["a"])
    with pytest.raises(DataError, match="floats: image 2 is 32 x 28, but the backbone takes 32 x 32"):
        to_images(Tensors(), CONFIG, name="floats").batch([0, 1, 2])
    with pytest.raises(DataError, match="image 0 is a Image, expected a tensor; use to_images"):
        as_images(Pictures()).batch([0])


def test_without_a_backbone_tensors_are_taken_as_they_are() -> None:
    assert torch.equal(as_images(Tensors()).batch([1])[0], torch.ones(1, 3, 32, 32))


def test_a_damaged_picture_names_data_set_and_index(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
        Pictures()[0][0].save(tmp_path / "train" / label / "0.png")
    path = tmp_path / "train" / "b" / "0.png"
    path.write_bytes(path.read_bytes()[:2000])
    images = build_images({"type": "ImageFolder", "root": str(tmp_path)}, CONFIG, train=True)
    assert images.batch([0])[0].shape == (1, 3, 32, 32)
    with pytest.raises(DataError, match="ImageFolder train: image 1 cannot be read"):
        images.batch([1])


def test_corruptions_on_tensors_and_on_items_are_the_same() -> None:
    source = TensorImages("ramp", RAMP, [0] * 5, ["a"], build_transform(CONFIG))

    class Rows:
        classes = ("a",)
        targets = (0,) * 5

        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return RAMP[index], 0

    items = to_images(Rows(), CONFIG)
    assert isinstance(items, ItemImages)
    for config in (
        {"type": "rotation", "degrees": 30},
        {"type": "noise", "std": 0.1},
        {"type": "contrast", "factor": 0.5},
    ):
        corruption = build_corruption(config)
        assert corruption is not None
        changed = source.corrupted(corruption)
        assert not torch.equal(changed.raw(3), source.raw(3))
        assert torch.equal(changed.raw(3), source.corrupted(corruption).raw(3))
        assert torch.equal(changed.raw_batch([4, 1]), items.corrupted(corruption).raw_batch([4, 1]))
        assert torch.equal(items.subset([4, 1]).corrupted(corruption).raw(0), changed.raw(4))


def test_corruption_values() -> None:
    quarter = build_corruption({"type": "rotation", "degrees": 90})
    flat = build_corruption({"type": "contrast", "factor": 0.0})
    noise = build_corruption({"type": "noise", "std": 0.1})
    assert quarter is not None and flat is not None and noise is not None
    assert torch.equal(quarter(RAMP, range(5)), RAMP.rot90(1, (2, 3)))
    mean = RAMP.float().mean((1, 2, 3)).round().to(torch.uint8)
    assert torch.equal(flat(RAMP, range(5)), mean[:, None, None, None].expand_as(RAMP))
    grey = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    assert noise(grey, range(4)).float().std().item() == pytest.approx(25.5, rel=0.03)
    assert build_corruption({"type": "none"}) is None


def test_wrong_corruptions() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'rotation'"):
        build_corruption({"type": "rotate"})
    with pytest.raises(ConfigError, match=r"'noise' takes no argument 'sdt'. Did you mean 'std'"):
        build_corruption({"type": "noise", "sdt": 0.1})
    with pytest.raises(ConfigError, match="needs the argument factor"):
        build_corruption({"type": "contrast"})
    corruption = build_corruption({"type": "contrast", "factor": 0.5})
    assert corruption is not None
    with pytest.raises(DataError, match="gives float tensors"):
        as_images(Tensors()).corrupted(corruption)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
def test_arrays_of_any_torchvision_layout_keep_their_pixels(layout: str) -> None:
    class Source:
        targets = (0, 0, 0, 0, 0)
        classes = ("a",)
        data = {"NHWC": RAMP.permute(0, 2, 3, 1).numpy(), "NCHW": RAMP.numpy(), "NHW": RAMP[:, 0]}[layout]

        def __len__(self) -> int:
            return 5

    images = to_images(Source(), CONFIG)
    assert isinstance(images, TensorImages)
    assert torch.equal(images.data, RAMP[:, :1] if layout == "NHW" else RAMP)
