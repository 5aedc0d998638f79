"""The pretraining command, run for real on a few images: files, resume to the same bytes, clear errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from mtpeft.files import sha256
from mtpeft.pretraining import probe
from mtpeft.pretraining.augment import move, recolour
from mtpeft.pretraining.command import main, read_recipe
from mtpeft.pretraining.synthetic import load_synthetic
from mtpeft.pretraining.targets import gradient_histograms, thumbnails
from mtpeft.pretraining.trainer import Trainer

RECIPE = str(Path(__file__).parents[2] / "recipes" / "pretrain" / "vit_mini.py")
NAME = "vit_mini_patch4_32"


def tiny(folder: Path, *more: str) -> list[str]:
    """Two epochs of two steps on 24 images, which all tests of a worker share."""
    return [
        f"output={folder / 'out'}",
        f"data.cache={folder.parent / 'images'}",
        "data.categories={'contours': 3}",
        "data.instances=8",
        "data.workers=1",
        "train.epochs=2",
        "train.threads=1",
        "train.batch_size=12",
        "probe.fashion_mnist=None",
        "probe.random_seeds=(0,)",
        *more,
    ]


def test_interrupted_run_resumes_to_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = tiny(tmp_path)
    config = read_recipe(RECIPE, changes)
    images, labels = load_synthetic(config.data, config.seed)
    whole = Trainer(config, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    whole.fit(tmp_path / "whole.pt")
    assert whole.epoch == 2 and whole.steps_per_epoch == 2

    original = Trainer._epoch

    def interrupted(self: Trainer) -> dict[str, float]:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([RECIPE, "--set", *changes])
    assert (tmp_path / "out" / f"{NAME}.resume.pt").exists()
    digits = probe.digits()
    few = probe.ProbeData(digits.name, digits.images[:100], digits.labels[:100], 60)
    monkeypatch.setattr(probe, "digits", lambda: few)
    assert main([RECIPE, "--set", *changes]) == 0
    assert "going on after epoch 1" in capsys.readouterr().out

    weights = tmp_path / "out" / f"{NAME}.safetensors"
    stored = load_file(weights)
    for name, value in whole.backbone.state_dict().items():
        assert torch.equal(stored[name], value.half()), name
    assert sorted(p.name for p in weights.parent.iterdir()) == [f"{NAME}.md", f"{NAME}.safetensors"]
    card = weights.with_suffix(".md").read_text()
    assert sha256(weights.read_bytes()) in card
    assert re.search(r"\| scikit-learn digits \| 60 / 40 \| \d+\.\d% \| \d+\.\d% \(", card)
    loaded = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(weights)})
    assert torch.equal(loaded.state_dict()["norm.weight"], stored["norm.weight"].float())


def test_training_changes_every_weight(tmp_path: Path) -> None:
    config = read_recipe(RECIPE, tiny(tmp_path))
    images, labels = load_synthetic(config.data, config.seed)
    trainer = Trainer(config, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    before = {name: value.clone() for name, value in trainer.modules.state_dict().items()}
    trainer.fit(tmp_path / "state.pt")
    assert [name for name, value in trainer.modules.state_dict().items() if torch.equal(value, before[name])] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.epoch=3", r"unknown recipe key 'train.epoch'.*Did you mean 'train.epochs'"),
        ("train.epochs=0", r"train.epochs is 0, it must be above 0"),
        ("train.patch_drop=1.0", r"train.patch_drop is 1.0"),
        ("data.categories={}", r"asks for no image category"),
        ("probe.fashion_mnist=nowhere", r"cannot read nowhere.*dataset-fashion-mnist"),
        ("model=vit_mini", r"unknown model 'vit_mini'"),
        ("model=resnet18", r"resnet18 is not a timm VisionTransformer"),
        ("seed", r"write KEY=VALUE"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(
    change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([RECIPE, "--set", *tiny(tmp_path, change)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("mtpeft: ") and "\n" not in error and re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_missing_recipe_and_unread_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent.py")]) == 2
    assert "there is no recipe file" in capsys.readouterr().err
    changed = tmp_path / "changed.py"
    changed.write_text(Path(RECIPE).read_text() + "\nsede = 1\n")
    assert main([str(changed)]) == 2
    assert "Did you mean 'seed'" in capsys.readouterr().err


def test_foreign_and_damaged_checkpoints_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_recipe(RECIPE, tiny(tmp_path))
    images, labels = load_synthetic(config.data, config.seed)
    checkpoint = tmp_path / "out" / f"{NAME}.resume.pt"
    trainer = Trainer(config, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    trainer.fit(checkpoint)
    assert main([RECIPE, "--set", *tiny(tmp_path, "train.learning_rate=0.1")]) == 2
    assert "belongs to another recipe" in capsys.readouterr().err
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert main([RECIPE, "--set", *tiny(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert checkpoint.stat().st_size == 1000


def test_augmentation_is_repeatable_and_stays_in_range() -> None:
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first, second = (
        recolour(move(images, generator), generator) for generator in (torch.Generator().manual_seed(s) for s in (0, 0))
    )
    assert torch.equal(first, second) and first.min() >= 0 and first.max() <= 1
    gray = (first.amax(dim=1) - first.amin(dim=1)).mean(dim=(1, 2)) < 0.1
    assert 0.4 < gray.float().mean() < 1.0


def test_gradient_histograms_see_the_direction_and_not_the_contrast() -> None:
    wave = torch.sin(torch.arange(32.0))
    upright = wave.expand(1, 1, 32, 32)
    histogram = gradient_histograms(upright).view(8, 4, 4)
    assert (histogram.argmax(dim=0) == 0).all()  # brightness changes along x: orientation 0
    assert (gradient_histograms(upright.transpose(2, 3)).view(8, 4, 4).argmax(dim=0) == 4).all()
    torch.testing.assert_close(gradient_histograms(-0.5 * upright).view(8, 4, 4), histogram, atol=2e-3, rtol=0)


def test_thumbnails_are_the_means_of_four_by_four_pixels() -> None:
    gray = torch.zeros(1, 1, 32, 32)
    gray[0, 0, :4, 4:8] = 1.0
    small = thumbnails(gray)
    assert small.shape == (1, 64) and small[0, 1] == 2.0 and small[0, 0] == -2.0
