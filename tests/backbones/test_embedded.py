"""The packaged backbone: a timm model like any other, loaded without network, with features worth having."""

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

from mtpeft.backbones import embedded
from mtpeft.files import sha256
from mtpeft.pretraining import probe

NAME = "vit_mini_patch4_32"
FILE = embedded.WEIGHTS / f"{NAME}.safetensors"
CARD = embedded.WEIGHTS / f"{NAME}.md"


def test_listed_by_timm_with_weights_and_import_is_idempotent(recwarn: pytest.WarningsRecorder) -> None:
    assert timm.list_models("vit_mini*") == [NAME]
    assert timm.list_models("vit_mini*", pretrained=True) == [f"{NAME}.synthetic"]
    importlib.reload(embedded)
    assert timm.list_models("vit_mini*") == [NAME]
    assert not [warning for warning in recwarn if "registry" in str(warning.message)]


def test_loads_in_a_process_that_cannot_open_a_socket() -> None:
    program = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('network used')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import timm, torch, mtpeft.backbones.embedded\n"
        f"model = timm.create_model('{NAME}', pretrained=True).eval()\n"
        "print(*model(torch.zeros(1, 3, 32, 32)).shape)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "128"]


def test_file_is_small_and_is_the_one_the_card_describes() -> None:
    assert FILE.stat().st_size <= 12 * 2**20
    stated = re.search(r"SHA-256\*\*: ([0-9a-f]{64})", CARD.read_text())
    assert stated is not None and stated.group(1) == sha256(FILE.read_bytes())


def test_pretrained_weights_are_those_of_the_file() -> None:
    from safetensors.torch import load_file

    stored = load_file(FILE)
    state = timm.create_model(NAME, pretrained=True).state_dict()
    assert state.keys() == stored.keys()
    for name, value in state.items():
        assert value.dtype == torch.float32 and torch.equal(value, stored[name].float()), name


def test_every_entry_point_of_timm_works() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = timm.create_model(NAME, pretrained=True).eval()
    headed = timm.create_model(NAME, pretrained=True, num_classes=7).eval()
    assert headed(images).shape == (2, 7)
    torch.testing.assert_close(headed.forward_features(images)[:, 0], plain(images))
    final, maps = plain.forward_intermediates(images, indices=2)
    assert final.shape == (2, 65, 128) and [tuple(m.shape) for m in maps] == [(2, 128, 8, 8)] * 2
    pyramid = timm.create_model(NAME, pretrained=True, features_only=True).eval()
    assert [tuple(m.shape) for m in pyramid(images)] == [(2, 128, 8, 8)] * 3
    larger = timm.create_model(NAME, pretrained=True, img_size=48).eval()
    assert larger(torch.zeros(1, 3, 48, 48)).shape == (1, 128)
    gray = timm.create_model(NAME, pretrained=True, in_chans=1).eval()
    one = images[:, :1]
    # timm rounds the sum of the three channels' kernels to the file's own fp16, hence the tolerance.
    torch.testing.assert_close(gray(one), plain(one.expand(-1, 3, -1, -1)), atol=5e-3, rtol=0)


def test_normalisation_is_stated_in_config_and_card() -> None:
    config = timm.create_model(NAME).pretrained_cfg
    assert config["mean"] == config["std"] == (0.5, 0.5, 0.5)
    assert "mean (0.5, 0.5, 0.5), standard deviation (0.5, 0.5, 0.5)" in CARD.read_text()


def test_frozen_features_beat_random_weights_on_digits() -> None:
    digits = probe.digits()
    half = probe.ProbeData(digits.name, digits.images[400:1400], digits.labels[400:1400], 600)
    inputs = probe.to_input(half.images, 32)
    trained = probe.accuracy(probe.features(timm.create_model(NAME, pretrained=True), inputs), half)
    torch.manual_seed(0)
    random = probe.accuracy(probe.features(timm.create_model(NAME), inputs), half)
    assert trained > random + 0.08, (trained, random)


def test_nothing_but_weights_and_cards_is_packaged() -> None:
    assert {Path(name).suffix for name in os.listdir(embedded.WEIGHTS)} == {".safetensors", ".md"}
