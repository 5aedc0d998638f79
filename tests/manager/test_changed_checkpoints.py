"""Nothing that was changed loads: every random change to a checkpoint is one line and leaves the backbone as it was."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import mtpeft
from mtpeft.errors import MtpeftError
from mtpeft.files import seal, unseal
from mtpeft.hooks.installation import carries_hooks
from mtpeft.manager.checkpoint import INDENT
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import perturb
from mtpeft.testing.damage import damaged_bytes, damaged_json


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    methods = [
        {"name": "houlsby", "sharing": "polyhistor"},
        {"name": "vpt_shallow", "num_tokens": 2, "sharing": "shared"},
    ]
    manager = mtpeft.attach(tiny_backbone("vit"), methods)
    manager.add_task("birds", num_classes=3)
    manager.add_task("depth", head="dense_linear", channels=1)
    manager.freeze_task("depth")
    perturb(manager)
    folder = tmp_path_factory.mktemp("saved")
    manager.save(folder)
    return folder


def refused(folder: Path, backbone: Any, weights: dict[str, Any]) -> str:
    """The line with which loading is refused; the backbone is the same afterwards."""
    with pytest.raises(MtpeftError) as error:
        mtpeft.load(folder, backbone)
    assert "\n" not in str(error.value)
    assert not carries_hooks(backbone)
    assert all((tensor == weights[name]).all() for name, tensor in backbone.state_dict().items())
    return str(error.value)


def copied(saved: Path, folder: Path) -> tuple[Path, Path]:
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (weights,) = folder.glob("weights-*.safetensors")
    return folder / "manifest.json", weights


def changes(count: int, seed: int, saved: Path, folder: Path) -> None:
    """`count` random changes to either file, each refused."""
    generator, backbone = random.Random(seed), tiny_backbone("vit")
    weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    for _ in range(count):
        manifest, tensors = copied(saved, folder)
        kind = generator.choice(("bytes of the manifest", "bytes of the weights", "values", "values"))
        if kind == "values":
            content = damaged_json(json.loads(manifest.read_text()), generator)
            manifest.write_text(json.dumps(content, indent=INDENT, sort_keys=True))
        else:
            file = manifest if kind == "bytes of the manifest" else tensors
            file.write_bytes(damaged_bytes(file.read_bytes(), generator))
        assert "damaged" in refused(folder, backbone, weights), kind


def test_changed_files_do_not_load(saved: Path, tmp_path: Path) -> None:
    changes(200, 0, saved, tmp_path)
    assert mtpeft.load(saved, tiny_backbone("vit")).tasks == ["birds", "depth"]  # what was not changed does


@pytest.mark.slow
def test_a_thousand_changed_files_do_not_load(saved: Path, tmp_path: Path) -> None:
    changes(1000, 1, saved, tmp_path)


def sealed_changes(count: int, seed: int, saved: Path, folder: Path) -> None:
    """Changes with a seal that fits, as other code would write them: a wrong value is one line, whatever it is."""
    generator, backbone = random.Random(seed), tiny_backbone("vit")
    weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    original = unseal((saved / "manifest.json").read_bytes(), INDENT)
    loaded = 0
    for _ in range(count):
        manifest, _ = copied(saved, folder)
        changed = damaged_json(original, generator)
        manifest.write_text(seal(changed, INDENT))
        try:
            manager = mtpeft.load(folder, backbone)
        except MtpeftError:
            refused(folder, backbone, weights)
        else:  # a value that means something too: another number of tokens would not fit the weights
            loaded += 1
            manager.detach()
    assert loaded < count / 4


def test_sealed_manifests_with_wrong_content_are_one_line(saved: Path, tmp_path: Path) -> None:
    sealed_changes(60, 2, saved, tmp_path)


@pytest.mark.slow
def test_a_thousand_sealed_manifests_with_wrong_content_are_one_line(saved: Path, tmp_path: Path) -> None:
    sealed_changes(1000, 3, saved, tmp_path)
