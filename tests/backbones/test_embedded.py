"""The packaged backbones: timm models like any other, loaded without network, with features worth having."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import mtpeft
from mtpeft.backbones import embedded
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.files import sha256
from mtpeft.pretraining import dense_probe, probe

VIT, SWIN = "vit_mini_patch4_32", "swin_mini_patch4_64"
SIZE = {VIT: 32, SWIN: 64}
WIDTH = {VIT: 128, SWIN: 256}
DIGITS_MARGIN = {VIT: 0.08, SWIN: 0.01}  # a random Swin, its convolution included, is already good at digits
every_model = pytest.mark.parametrize("name", SIZE)


def card(name: str) -> str:
    return (embedded.WEIGHTS / f"{name}.md").read_text()


@every_model
def test_listed_by_timm_with_weights_and_import_is_idempotent(name: str, recwarn: pytest.WarningsRecorder) -> None:
    family = f"{name.partition('_')[0]}_mini*"
    assert timm.list_models(family) == [name]
    assert timm.list_models(family, pretrained=True) == [f"{name}.synthetic"]
    importlib.reload(embedded)
    assert timm.list_models(family) == [name]
    assert not [warning for warning in recwarn if "registry" in str(warning.message)]


@every_model
def test_loads_in_a_process_that_cannot_open_a_socket(name: str) -> None:
    program = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('network used')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import timm, torch, mtpeft.backbones.embedded\n"
        f"model = timm.create_model('{name}', pretrained=True).eval()\n"
        f"print(*model(torch.zeros(1, 3, {SIZE[name]}, {SIZE[name]})).shape)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", str(WIDTH[name])]


@every_model
def test_file_is_small_and_is_the_one_the_card_describes(name: str) -> None:
    file = embedded.WEIGHTS / f"{name}.safetensors"
    assert file.stat().st_size <= 12 * 2**20
    stated = re.search(r"SHA-256\*\*: ([0-9a-f]{64})", card(name))
    assert stated is not None and stated.group(1) == sha256(file.read_bytes())


@every_model
def test_pretrained_weights_are_those_of_the_file(name: str) -> None:
    from safetensors.torch import load_file

    stored = load_file(embedded.WEIGHTS / f"{name}.safetensors")
    model = timm.create_model(name, pretrained=True)
    state = model.state_dict()
    assert state.keys() == stored.keys()
    for key, value in state.items():
        assert value.dtype == torch.float32 and torch.equal(value, stored[key].float()), key
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card(name)


def test_every_entry_point_of_timm_works_on_the_vit() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = timm.create_model(VIT, pretrained=True).eval()
    headed = timm.create_model(VIT, pretrained=True, num_classes=7).eval()
    assert headed(images).shape == (2, 7)
    torch.testing.assert_close(headed.forward_features(images)[:, 0], plain(images))
    final, maps = plain.forward_intermediates(images, indices=2)
    assert final.shape == (2, 65, 128) and [tuple(m.shape) for m in maps] == [(2, 128, 8, 8)] * 2
    pyramid = timm.create_model(VIT, pretrained=True, features_only=True).eval()
    assert [tuple(m.shape) for m in pyramid(images)] == [(2, 128, 8, 8)] * 3
    larger = timm.create_model(VIT, pretrained=True, img_size=48).eval()
    assert larger(torch.zeros(1, 3, 48, 48)).shape == (1, 128)
    gray = timm.create_model(VIT, pretrained=True, in_chans=1).eval()
    one = images[:, :1]
    # timm rounds the sum of the three channels' kernels to the file's own fp16, hence the tolerance.
    torch.testing.assert_close(gray(one), plain(one.expand(-1, 3, -1, -1)), atol=5e-3, rtol=0)


def test_every_entry_point_of_timm_works_on_the_pyramid() -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shapes = [(2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2)]
    plain = timm.create_model(SWIN, pretrained=True).eval()
    assert timm.create_model(SWIN, pretrained=True, num_classes=7).eval()(images).shape == (2, 7)
    final, maps = plain.forward_intermediates(images)
    assert [tuple(m.shape) for m in maps] == shapes
    torch.testing.assert_close(plain.forward_head(final), plain(images))
    pyramid = timm.create_model(SWIN, pretrained=True, features_only=True).eval()
    for level, expected in zip(pyramid(images), maps, strict=True):
        torch.testing.assert_close(level.permute(0, 3, 1, 2), expected)
    gray = timm.create_model(SWIN, pretrained=True, in_chans=1).eval()
    one = images[:, :1]
    # timm rounds the sum of the three channels' kernels to the file's own fp16, hence the tolerance.
    torch.testing.assert_close(gray(one), plain(one.expand(-1, 3, -1, -1)), atol=2e-2, rtol=0)


@pytest.mark.parametrize("size", [48, 96, 128, (64, 96)])
def test_the_pyramid_takes_other_image_sizes(size: int | tuple[int, int]) -> None:
    model = timm.create_model(SWIN, pretrained=True, img_size=size).eval()
    height, width = (size, size) if isinstance(size, int) else size
    maps = model.forward_intermediates(torch.zeros(1, 3, height, width), intermediates_only=True)
    assert [tuple(m.shape[2:]) for m in maps[:2]] == [(height // 4, width // 4), (height // 8, width // 8)]
    assert model(torch.zeros(1, 3, height, width)).shape == (1, 256)


@every_model
def test_anatomy_and_attach_know_it(name: str) -> None:
    images = torch.zeros(2, 3, SIZE[name], SIZE[name])
    anatomy = Anatomy(timm.create_model(name).eval())
    assert anatomy.image_size == (SIZE[name],) * 2 and anatomy.feature_dim == WIDTH[name]
    final = anatomy.feature_map(anatomy.backbone.forward_features(images))
    assert tuple(final.shape) == (2, WIDTH[name], *anatomy.grid)
    manager = mtpeft.attach(name, "lora")
    manager.add_task("shape", num_classes=3)
    assert manager.num_trainable() > 0 and manager(images, "shape").shape == (2, 3)


@every_model
def test_normalisation_is_stated_in_config_and_card(name: str) -> None:
    config = timm.create_model(name).pretrained_cfg
    assert config["mean"] == config["std"] == (0.5, 0.5, 0.5)
    assert "mean (0.5, 0.5, 0.5), standard deviation (0.5, 0.5, 0.5)" in card(name)


@every_model
def test_frozen_features_beat_random_weights_on_digits(name: str) -> None:
    digits = probe.digits()
    half = probe.ProbeData(digits.name, digits.images[400:1400], digits.labels[400:1400], 600)
    inputs = probe.to_input(half.images, SIZE[name])
    trained = probe.accuracy(probe.features(timm.create_model(name, pretrained=True), inputs), half)
    torch.manual_seed(0)
    random = probe.accuracy(probe.features(timm.create_model(name), inputs), half)
    assert trained > random + DIGITS_MARGIN[name], (trained, random)


def test_frozen_maps_of_the_pyramid_beat_random_weights_on_unseen_scenes(tmp_path: Path) -> None:
    scenes = dense_probe.scenes(48, 24, 64, str(tmp_path))
    torch.manual_seed(0)
    trained, random = (
        dense_probe.measure(
            dense_probe.map_features(timm.create_model(SWIN, pretrained=weights), scenes.images), scenes
        )
        for weights in (True, False)
    )
    assert trained["normals"] < random["normals"] - 4, (trained, random)
    assert trained["saliency"] > random["saliency"] + 0.1, (trained, random)


def test_nothing_but_weights_and_cards_is_packaged() -> None:
    assert {Path(name).suffix for name in os.listdir(embedded.WEIGHTS)} == {".safetensors", ".md"}
