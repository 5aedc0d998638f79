"""The papers' training transforms: what they draw, that they follow torch's generator, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trees
from PIL import Image

from mtpeft.data.augment import Augment, drawn_from_torch
from mtpeft.data.labelled import build_labelled_parts
from mtpeft.data.loader import ResumableLoader
from mtpeft.data.transforms import build_augment, build_transform
from mtpeft.errors import ConfigError

CONFIG = {"input_size": (3, 16, 16), "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.5, 0.5), "crop_pct": 0.875}
PAPERS: dict[str, dict[str, Any]] = {
    "pilot": {"scale": [0.05, 1.0], "flip": True},
    "vpt": {"random_crop": 0.875, "flip": True},
    "randaugment": {"scale": [0.08, 1.0], "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25},
    "jitter": {"color_jitter": 0.4},
    "original": {"auto_augment": "original-mstd0.5"},
}


def parts(tmp_path: Path, augment: Any, **config: Any) -> Any:
    root = trees.class_folders(tmp_path / "tree", 2, per_class=3)
    return build_labelled_parts({"type": "ImageFolder", "root": str(root)}, {**CONFIG, **config}, augment)


@pytest.mark.parametrize("name", PAPERS)
def test_batches_are_drawn_anew_and_follow_the_seed(name: str, tmp_path: Path) -> None:
    train, test = parts(tmp_path, PAPERS[name])
    batches = [train.batch([0, 3])[0] for _ in range(4)]
    assert all(batch.shape == (2, 3, 16, 16) and batch.isfinite().all() for batch in batches)
    assert any(not batch.equal(batches[0]) for batch in batches[1:])
    assert test.batch([1])[0].equal(test.batch([1])[0]) and train.raw(0).equal(train.raw(0))
    assert train.plain().batch([0])[0].equal(train.plain().batch([0])[0])

    def epoch(workers: int, start: int = 0) -> list[torch.Tensor]:
        return [x for x, _ in ResumableLoader(train, 2, seed=1, epoch=0, start=start, num_workers=workers)]

    whole = epoch(0)
    assert all(a.equal(b) for a, b in zip(whole[1:], epoch(0, 1), strict=True))


def test_workers_draw_the_same(tmp_path: Path) -> None:
    train, _ = parts(tmp_path, PAPERS["randaugment"])
    alone, shared = (
        [x for x, _ in ResumableLoader(train, 2, seed=1, epoch=0, num_workers=workers)] for workers in (0, 2)
    )
    assert all(a.equal(b) for a, b in zip(alone, shared, strict=True))


def test_generators_of_others_are_left_as_they_were() -> None:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    with drawn_from_torch():
        first = random.random(), np.random.rand()
    outside = random.random(), np.random.rand()
    random.seed(3)
    np.random.seed(3)
    assert outside == (random.random(), np.random.rand())
    torch.manual_seed(3)
    with drawn_from_torch():
        assert first == (random.random(), np.random.rand())


def test_a_crop_is_of_the_picture_at_its_own_size() -> None:
    """Crops of a hundredth of the area: fine stripes survive, which a picture resized first would have lost."""
    stripes = np.zeros((320, 320, 3), dtype=np.uint8)
    stripes[:, ::16] = stripes[:, 1::16] = 255
    transform = build_transform(CONFIG, True, {"scale": [0.01, 0.01], "ratio": [1.0, 1.0]})
    shown = transform.augmented(Image.fromarray(stripes))
    assert shown.shape == (3, 16, 16) and shown.dtype == torch.uint8
    assert int(shown.max()) - int(shown.min()) > 100


def test_small_images_in_arrays_are_read_one_by_one_where_pictures_change() -> None:
    train, test = build_labelled_parts({"type": "Digits"}, CONFIG, {"scale": [0.5, 1.0]})
    assert type(train).__name__ == "ItemImages" and type(test).__name__ == "TensorImages"
    assert train.batch([0])[0].shape == (1, 3, 16, 16)
    cropped = build_labelled_parts({"type": "Digits"}, {**CONFIG, "crop_arrays": True})[1]
    assert type(cropped).__name__ == "ItemImages" and "center crop" in cropped.text
    assert "resized whole to 16 x 16" in test.text


@pytest.mark.parametrize("keys", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}, {"smoothing": 0.1}])
def test_mixed_labels_are_those_of_the_pixels(keys: dict[str, float]) -> None:
    """Image k is of value k: the mean of an image says how much of which it has."""
    augment = Augment(**{"smoothing": 0.0, **keys})
    torch.manual_seed(0)
    for size in (6, 5):
        images = torch.arange(size).float()[:, None, None, None].expand(size, 3, 32, 32)
        mixed, labels = augment.mix(images, torch.arange(size), size)
        assert mixed.shape == images.shape and labels.shape == (size, size)
        assert torch.allclose(labels.sum(1), torch.ones(size), atol=1e-6)
        if not augment.smoothing:
            told = labels @ torch.arange(size).float()
            assert torch.allclose(mixed.mean((1, 2, 3)), told, atol=1e-4)
    assert images.equal(torch.arange(5).float()[:, None, None, None].expand(5, 3, 32, 32))


def test_mixup_is_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.data import Mixup

    theirs = Mixup(mixup_alpha=0.8, label_smoothing=0.1, num_classes=4)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (0.3, False))
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.tensor(0.3))
    x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 3, 2])
    ours = Augment(mixup=0.8, smoothing=0.1).mix(x.clone(), y, 4)
    monkeypatch.setattr("timm.data.mixup.one_hot", _one_hot)
    expected = theirs(x.clone(), y)
    assert torch.allclose(ours[0], expected[0]) and torch.allclose(ours[1], expected[1], atol=1e-6)


def _one_hot(x: torch.Tensor, num_classes: int, on_value: float = 1.0, off_value: float = 0.0) -> torch.Tensor:
    return torch.full((len(x), num_classes), off_value).scatter_(1, x.view(-1, 1), on_value)


def test_batches_carry_mixed_labels(tmp_path: Path) -> None:
    train, test = parts(tmp_path, {"mixup": 0.8})
    assert train.batch([0, 5])[1].shape == (2, 2) and test.batch([0, 5])[1].tolist() == [0, 1]
    assert train.plain().batch([0, 5])[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"scale": [0.5, 0.1]}, "scale is .0.5, 0.1., expected the lower limit first"),
        ({"scale": [0.0, 1.0]}, "scale is"),
        ({"scale": 0.5}, "scale is 0.5"),
        ({"scale": [0.1, 1.0], "random_crop": 0.9}, "two ways to crop"),
        ({"ratio": [1.0, 1.0]}, "give scale, or leave ratio out"),
        ({"auto_augment": "rand-x9"}, "auto_augment is 'rand-x9'"),
        ({"auto_augment": "nothing"}, "auto_augment is 'nothing'"),
        ({"re_prob": 2}, "re_prob is 2"),
        ({"mixup": -1}, "mixup is -1"),
        ({"mixupp": 1}, "takes no option 'mixupp'. Did you mean 'mixup'"),
    ],
)
def test_mistakes_are_one_line(augment: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_augment(augment)
    assert "\n" not in str(caught.value)


def test_in_words() -> None:
    pilot = build_transform(CONFIG, True, PAPERS["pilot"]).text()
    assert pilot.startswith("a random crop of 5 to 100 % of the area") and "flipped with probability 0.5" in pilot
    assert build_transform(CONFIG).text() == (
        "shorter side resized to 18 (bicubic); center crop of 16 x 16; minus mean 0.5, 0.4, 0.3, over std 0.5, 0.5, 0.5"
    )
    squash = build_transform({**CONFIG, "crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"})
    assert squash.text().startswith("resized to 16 x 16 (bilinear); minus")
    assert "rand-m9-mstd0.5-inc1 (timm)" in build_transform(CONFIG, True, PAPERS["randaugment"]).text()
