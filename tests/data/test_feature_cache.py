"""The feature cache from Python: what is computed, what is found again, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mtpeft
from mtpeft.data.images import TensorImages
from mtpeft.data.loader import ResumableLoader
from mtpeft.data.row_images import RowImages
from mtpeft.data.transforms import Augment, InputTransform
from mtpeft.testing.backbones import IMAGE_SIZE, tiny_backbone

TRANSFORM = InputTransform((IMAGE_SIZE, IMAGE_SIZE), (0.5,) * 3, (0.5,) * 3)


def manager_of(backbone: Any = None, method: Any = "linear_probe") -> mtpeft.TaskManager:
    manager = mtpeft.attach(tiny_backbone("vit") if backbone is None else backbone, method)
    manager.add_task("a", num_classes=3)
    return manager.eval()


def pictures(number: int = 6, **options: Any) -> TensorImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, 3, IMAGE_SIZE, IMAGE_SIZE), generator=generator, dtype=torch.uint8)
    return TensorImages("noise", pixels, [i % 3 for i in range(number)], ["x", "y", "z"], TRANSFORM)


def counts(cache: mtpeft.FeatureCache) -> tuple[int, int]:
    return cache.found, cache.computed


def test_once_per_image(tmp_path: Path) -> None:
    manager, (images, _) = manager_of(), pictures().batch(range(6))
    cache = mtpeft.FeatureCache(manager, tmp_path)
    rows = cache.rows(images)
    assert counts(cache) == (0, 6) and torch.equal(manager(rows, "a"), manager(images, "a"))
    changed = images.clone()
    changed[2, 0, 0, 0] += 1e-3
    assert torch.equal(manager(cache.rows(changed), "a"), manager(changed, "a")) and counts(cache) == (5, 7)
    cache.flush()
    again = mtpeft.FeatureCache(manager_of(), tmp_path)
    assert torch.equal(again.rows(images), rows) and counts(again) == (6, 0)


def test_another_model_has_other_rows(tmp_path: Path) -> None:
    """Other weights, and the same weights that are pooled otherwise."""
    images, _ = pictures().batch(range(2))
    means = tiny_backbone("vit")
    means.global_pool = "avg"
    for backbone in (tiny_backbone("vit"), tiny_backbone("vit", seed=1), means):
        manager = manager_of(backbone)
        cache = mtpeft.FeatureCache(manager, tmp_path)
        assert torch.equal(manager(cache.rows(images), "a"), manager(images, "a")) and counts(cache) == (0, 2)
        cache.flush()
    for method in ("lst", "vqt"):  # the same weights, other rows
        cache = mtpeft.FeatureCache(manager_of(method=method), tmp_path)
        cache.rows(images)
        assert counts(cache) == (0, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_as_rows(workers: int, tmp_path: Path) -> None:
    data, manager = pictures(), manager_of(method="lst")
    rows = RowImages(data, mtpeft.FeatureCache(manager, tmp_path))
    early = rows.batch([4, 1])[0]  # computed, as nothing is kept yet
    rows.fill(workers)
    assert counts(rows.cache) == (0, 6) and torch.equal(rows.batch([4, 1])[0], early)
    part = rows.subset([5, 0], {0: 1, 2: 0})
    assert part.targets == [0, 1] and torch.equal(part.raw(1), rows.raw(0)) and part.describe() == data.describe()
    shown = [list(ResumableLoader(d, 4, seed=3, epoch=1, num_workers=workers)) for d in (data, rows)]
    for (images, labels), (given, others) in zip(*shown, strict=True):
        assert torch.equal(labels, others) and torch.equal(manager(images, "a"), manager(given, "a"))


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTPEFT_CACHE", str(tmp_path))
    cache = mtpeft.FeatureCache(manager_of())
    cache.rows(pictures().batch([0])[0])
    cache.flush()
    assert list((tmp_path / "features").rglob("*.npy"))


def test_augmented_images_are_shown_plain(tmp_path: Path) -> None:
    """Rows stand for images as they are; a recipe with augmentation is refused before (`check_fixed`)."""
    data = pictures()
    data.transform = InputTransform((IMAGE_SIZE, IMAGE_SIZE), (0.5,) * 3, (0.5,) * 3, augment=Augment(flip=True))
    rows = RowImages(data, mtpeft.FeatureCache(manager_of(), tmp_path))
    rows.fill()
    assert torch.equal(rows.cache.part.rows(data.plain().batch(range(6))[0]), rows.batch(range(6))[0])
