"""How inputs are shown: described in plain types, built again, and dense pictures brought to a size and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mtpeft.data.digits import Digits
from mtpeft.data.inputs import build_input, describe_input
from mtpeft.data.to_images import to_images
from mtpeft.errors import ConfigError, UnknownNameError

CONFIG = {
    "input_size": (3, 32, 40),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.25, 0.3),
    "crop_pct": 0.9,
    "interpolation": "bicubic",
}
MEAN, STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]


class Photos:
    """Pictures of different sizes, as `kind` gives them."""

    def __init__(self, kind: str) -> None:
        self.kind, self.targets = kind, [0, 1, 0]

    def __len__(self) -> int:
        return 3

    def picture(self, index: int) -> Any:
        rng = np.random.default_rng(index)
        pixels = rng.integers(0, 256, (50 + 7 * index, 60, 3)).astype(np.uint8)
        if self.kind == "float":  # dark ones among bright ones: all are of 0 to 255
            return pixels.astype(np.float32) / (400 if index == 1 else 1)
        return Image.fromarray(pixels) if self.kind == "pil" else pixels

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.picture(index), self.targets[index]


@pytest.mark.parametrize("kind", ["pil", "array", "float"])
def test_a_description_gives_the_same_pixels(kind: str) -> None:
    """Through JSON and back; white is that of the whole data set, also for a dark picture of it."""
    data = Photos(kind)
    part = to_images(data, CONFIG)
    again = build_input(json.loads(json.dumps(describe_input(part))), "tasks.json")
    assert again.size == (32, 40)
    for index in range(len(data)):
        assert torch.equal(again.show(data.picture(index), "a picture").x, part[index][0])


def test_images_in_memory_are_resized_whole() -> None:
    digits = Digits(train=False)
    part = to_images(digits, CONFIG)
    described = describe_input(part)
    assert described["whole"] is True
    again = build_input(described, "tasks.json")
    x = part.batch([4])[0][0]
    for item in (digits.data[4], Image.fromarray(digits.data[4]), torch.from_numpy(digits.data[4])[None]):
        assert torch.equal(again.show(item, "a digit").x, x)


def maps(*transforms: dict[str, Any]) -> Any:
    return build_input({"shows": "maps", "transforms": list(transforms), "mean": MEAN, "std": STD}, "tasks.json")


def test_dense_pictures_are_padded_and_resized_and_know_where_they_lie() -> None:
    picture = np.full((20, 30, 3), 200, np.uint8)
    own = maps().show(picture, "p")
    assert own.x.shape == (3, 20, 30) and own.window == (0, 0, 20, 30)
    padded = maps({"name": "crop", "size": [40, 50]}).show(picture, "p")
    assert padded.x.shape == (3, 40, 50) and padded.window == (10, 10, 20, 30)
    assert (
        (padded.x[:, 10:30, 10:40] > 0).all() and (padded.x[:, :10] == -1).all() and (padded.x[:, :, 40:] == -1).all()
    )
    both = maps({"name": "crop", "size": 40}, {"name": "resize", "size": 80}).show(picture, "p")
    assert both.x.shape == (3, 80, 80) and both.window == (20, 10, 40, 60)
    assert both.picture is not None and both.picture.shape == (20, 30, 3)
    strict = maps({"name": "crop", "size": 40})
    strict.fit = lambda size: (80, 160)  # the only one a backbone takes
    fitted = strict.show(picture, "p")
    assert fitted.x.shape == (3, 80, 160) and fitted.window == (20, 20, 40, 120)
    shrunk = maps({"name": "crop", "size": 15}).show(picture, "p")
    assert shrunk.x.shape == (3, 15, 15) and shrunk.window == (2, 0, 10, 15)


def test_what_cannot_be_undone_or_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"transforms\.val has 'flip'"):
        maps({"name": "flip"})
    with pytest.raises(UnknownNameError, match="unknown input 'sounds'"):
        build_input({"shows": "sounds"}, "tasks.json")
    with pytest.raises(ConfigError, match=r"tasks\.json: input takes no option 'cropp'"):
        build_input({"shows": "images", "cropp": 1}, "tasks.json")
