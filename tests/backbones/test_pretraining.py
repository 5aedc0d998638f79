"""The pretraining command, run for real on a few images: files, resume to the same bytes, clear errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from mtpeft.files import sha256
from mtpeft.pretraining import dense_probe, probe
from mtpeft.pretraining.augment import move, move_relief, paste, recolour
from mtpeft.pretraining.command import main, read_recipe
from mtpeft.pretraining.config import PretrainConfig
from mtpeft.pretraining.synthetic import load_synthetic
from mtpeft.pretraining.targets import NEARNESS, gradient_histograms, relief_error, thumbnails
from mtpeft.pretraining.trainer import Trainer

FOLDER = Path(__file__).parents[2] / "recipes" / "pretrain"
RECIPE, PYRAMID = str(FOLDER / "vit_mini.py"), str(FOLDER / "swin_mini.py")
MODEL = {RECIPE: "vit_mini_patch4_32", PYRAMID: "swin_mini_patch4_64"}
CATEGORIES = {RECIPE: {"contours": 3}, PYRAMID: {"contours": 1, "random_objects": 2}}
NAME = MODEL[RECIPE]
every_recipe = pytest.mark.parametrize("recipe", MODEL, ids=MODEL.values())


def tiny(folder: Path, *more: str, recipe: str = RECIPE) -> list[str]:
    """Two epochs of two steps on 24 images, which all tests of a worker share."""
    return [
        f"output={folder / 'out'}",
        f"data.cache={folder.parent / 'images'}",
        f"data.categories={CATEGORIES[recipe]}",
        "data.instances=8",
        "data.workers=1",
        "train.epochs=2",
        "train.threads=1",
        "train.batch_size=12",
        "probe.fashion_mnist=None",
        "probe.scenes=None",
        "probe.random_seeds=(0,)",
        *more,
    ]


def trainer_of(config: PretrainConfig) -> Trainer:
    images, labels = load_synthetic(config.data, config.seed)
    return Trainer(config, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))


@every_recipe
def test_interrupted_run_resumes_to_the_same_file(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, name = tiny(tmp_path, recipe=recipe), MODEL[recipe]
    whole = trainer_of(read_recipe(recipe, changes))
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
            main([recipe, "--set", *changes])
    assert (tmp_path / "out" / f"{name}.resume.pt").exists()
    digits = probe.digits()
    few = probe.ProbeData(digits.name, digits.images[:100], digits.labels[:100], 60)
    monkeypatch.setattr(probe, "digits", lambda: few)
    assert main([recipe, "--set", *changes]) == 0
    assert "going on after epoch 1" in capsys.readouterr().out

    weights = tmp_path / "out" / f"{name}.safetensors"
    stored = load_file(weights)
    for key, value in whole.backbone.state_dict().items():
        assert torch.equal(stored[key], value.half()), key
    assert sorted(p.name for p in weights.parent.iterdir()) == [f"{name}.md", f"{name}.safetensors"]
    card = weights.with_suffix(".md").read_text()
    assert sha256(weights.read_bytes()) in card
    assert ("random ones 000 to 001" in card) == (recipe == PYRAMID)
    assert re.search(r"\| scikit-learn digits \| 60 / 40 \| \d+\.\d% \| \d+\.\d% \(", card)
    loaded = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)})
    assert torch.equal(loaded.state_dict()["norm.weight"], stored["norm.weight"].float())


@every_recipe
def test_training_changes_every_weight(recipe: str, tmp_path: Path) -> None:
    trainer = trainer_of(read_recipe(recipe, tiny(tmp_path, recipe=recipe)))
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
        ("model=resnet18", r"resnet18 is not a timm VisionTransformer or SwinTransformer"),
        ("model=swin_mini_patch4_64", r"train.patch_drop: swin_mini_patch4_64 cannot leave patches out"),
        ("train.gray=1.5", r"train.gray is 1.5, it must be a share"),
        ("train.paste=0.5", r"need images of the family random_objects"),
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


def test_a_plain_transformer_predicts_no_relief(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = tiny(tmp_path, "model=vit_mini_patch4_32", recipe=PYRAMID)
    assert main([PYRAMID, "--set", *changes]) == 2
    assert "train.relief: vit_mini_patch4_32 is no pyramid" in capsys.readouterr().err


def test_missing_recipe_and_unread_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent.py")]) == 2
    assert "there is no recipe file" in capsys.readouterr().err
    changed = tmp_path / "changed.py"
    changed.write_text(Path(RECIPE).read_text() + "\nsede = 1\n")
    assert main([str(changed)]) == 2
    assert "Did you mean 'seed'" in capsys.readouterr().err


def test_foreign_and_damaged_checkpoints_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "out" / f"{NAME}.resume.pt"
    trainer_of(read_recipe(RECIPE, tiny(tmp_path))).fit(checkpoint)
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


def test_a_moved_relief_keeps_its_values_and_its_sharp_edge() -> None:
    images = torch.zeros(8, 4, 32, 32)
    images[:, :, 8:24, 8:24] = 0.6
    moved = move_relief(images, torch.Generator().manual_seed(0))
    relief = moved[:, 3]
    assert (relief[0] != relief[1]).any()
    torch.testing.assert_close(relief[relief > 0], torch.full_like(relief[relief > 0], 0.6))
    # The colour fades over the edge, where the relief steps.
    assert ((moved[:, 0] > 0.05) & (moved[:, 0] < 0.55)).any()


def test_pasted_objects_bring_their_colour_and_relief_and_no_background() -> None:
    images = torch.zeros(3, 4, 32, 32)
    images[0, :3], images[0, :, 8:24, 8:24] = 0.2, 0.9
    images[0, :3, 8:24, 8:24] = 0.7
    pasted = paste(images, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(pasted[0], images[0]) and torch.equal(pasted[2], images[2])  # their neighbours are empty
    relief = pasted[1, 3]
    assert 20 < int((relief > 0).sum()) < 16 * 16
    assert set(relief.unique().tolist()) == {0.0, images[0, 3, 8, 8].item()}
    assert torch.equal(pasted[1, 0] > 0, relief > 0) and (pasted[1, 0][relief > 0] == 0.7).all()
    assert torch.equal(paste(images, 0.0, torch.Generator().manual_seed(0)), images)


def test_relief_error_is_zero_for_the_truth_and_ignores_images_without_relief() -> None:
    relief = torch.zeros(2, 8, 8)
    relief[0, 2:6, 2:6] = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    truth = torch.stack([(relief > 0) * 200.0 - 100.0, (relief - 0.5) / NEARNESS], dim=1)
    assert relief_error(truth, relief) < 1e-5
    wrong = truth.clone()
    wrong[1] += 3.0
    assert torch.equal(relief_error(wrong, relief), relief_error(truth, relief))
    shifted = truth.clone()
    shifted[0, 1] += 1.0  # a wrong distance, right slopes
    torch.testing.assert_close(relief_error(shifted, relief), torch.tensor(1.0))
    nothing = truth.clone().requires_grad_()
    relief_error(nothing, torch.zeros_like(relief)).backward()
    assert nothing.grad is not None and not nothing.grad.any()


def test_regression_from_the_maps_finds_what_is_linear_in_them() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6 * 16, 5)).astype(np.float32)
    depth = features @ rng.normal(size=(5, 1)) + 4.0
    normals = np.stack([features[:, 0], features[:, 1], features[:, 2]], axis=1)
    labels = {"depth": depth.copy(), "normals": normals, "saliency": (features[:, :1] > 0).astype(float)}
    labels["depth"][::7] = np.nan
    data = dense_probe.DenseData(np.zeros((6, 16, 16, 3), np.uint8), labels, fitted=4)
    found = dense_probe.measure(features, data)
    assert found["depth"] < 0.02 and found["normals"] < 1.0 and found["saliency"] > 0.6
    blind = dense_probe.measure(rng.normal(size=features.shape).astype(np.float32), data)
    assert blind["depth"] > 1.0 and blind["normals"] > 45


def test_cells_of_rendered_scenes_carry_their_labels(tmp_path: Path) -> None:
    data = dense_probe.scenes(2, 1, 64, str(tmp_path))
    assert data.images.shape == (3, 64, 64, 3) and data.fitted == 2
    assert {task: values.shape for task, values in data.labels.items()} == {
        "depth": (3 * 256, 1),
        "normals": (3 * 256, 3),
        "saliency": (3 * 256, 1),
    }
    depth, saliency = (data.labels[task][np.isfinite(data.labels[task])] for task in ("depth", "saliency"))
    assert depth.min() > 0 and len(np.unique(depth.round(2))) > 20
    assert saliency.min() == 0 and saliency.max() == 1
    lengths = np.linalg.norm(data.labels["normals"], axis=1)
    assert np.nanmax(lengths) < 1.001 and np.nanmedian(lengths) > 0.99
    model = timm.create_model("swin_mini_patch4_64", num_classes=0)
    features = dense_probe.map_features(model, data.images, batch_size=2)
    assert features.shape == (3 * 256, 32 + 64 + 128 + 256) and model.training
    pixels = dense_probe.patches(data.images).reshape(3, 16, 16, 3, 4, 4)
    expected = data.images[1].reshape(16, 4, 16, 4, 3).transpose(0, 2, 4, 1, 3) / 255
    np.testing.assert_allclose(pixels[1], expected, atol=1e-6)
    assert dense_probe.measure(features, data)["depth"] > 0


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
