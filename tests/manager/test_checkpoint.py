"""Saving and loading: what is in a checkpoint, what is refused, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mtpeft
from mtpeft.errors import CheckpointError, MtpeftError
from mtpeft.files import seal, sha256, unseal
from mtpeft.manager.checkpoint import INDENT
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import Case, Snapshot, images, perturb


def manager_of(method: Any = "lora", **options: Any) -> TaskManager:
    manager = mtpeft.attach(tiny_backbone("vit"), method, **options)
    manager.add_task("birds", num_classes=3)
    manager.add_task("old cars", num_classes=5)
    perturb(manager)
    return manager.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    manager_of().save(tmp_path / "run")
    return tmp_path / "run"


def weights_file(folder: Path) -> Path:
    (file,) = folder.glob("weights-*.safetensors")
    return file


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Another manifest with a seal that fits it: as if written by other code, not damaged."""
    manifest = unseal((folder / "manifest.json").read_bytes(), INDENT)
    edit(manifest)
    (folder / "manifest.json").write_text(seal(manifest, INDENT))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Another weights file with a manifest that fits it: as if written by other code, not damaged."""
    file = weights_file(folder)
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)
    edit_manifest(folder, lambda m: m["weights"].update(sha256=sha256(file.read_bytes())))


def test_everything_comes_back(tmp_path: Path) -> None:
    manager = manager_of([{"name": "lora", "rank": 2, "sharing": "shared"}, "vpt_shallow"])
    manager.add_task("depth", head="dense_linear", channels=2)
    manager.freeze_task("birds")
    manager.set_task("old cars")
    manager.save(tmp_path)
    loaded = mtpeft.load(tmp_path, tiny_backbone("vit")).eval()
    assert loaded.tasks == ["birds", "old cars", "depth"]
    assert loaded.frozen_tasks == {"birds"}
    assert [(a.spec.name, a.sharing_name, a.config) for a in loaded.attachments] == [  # type: ignore[union-attr]
        (a.spec.name, a.sharing_name, a.config)
        for a in manager.attachments  # type: ignore[union-attr]
    ]
    assert {n: p.requires_grad for n, p in loaded.named_parameters()} == {
        n: p.requires_grad for n, p in manager.named_parameters()
    }
    for task in [*loaded.tasks, None]:
        assert torch.equal(loaded(images(2), task), manager(images(2), task))
    assert loaded.table() == manager.table()


def test_only_what_is_trained_is_saved(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", weights_file(saved).name]
    assert not any(name.startswith("backbone.") for name in load_file(weights_file(saved)))
    text = (saved / "manifest.json").read_text()
    assert json.loads(text)["backbone"]["class"] == "VisionTransformer"


def test_growing_heads_come_back(tmp_path: Path) -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), "adaptformer")
    for number, classes in enumerate((3, 2, 4)):
        manager.add_task(f"step {number}", num_classes=classes, head="growing")
    perturb(manager.eval())
    manager.freeze_task("step 0")
    manager.save(tmp_path)
    loaded = mtpeft.load(tmp_path, tiny_backbone("vit")).eval()
    head: Any = loaded.head("step 1")
    assert head.classes("step 1") == range(3, 5)
    assert torch.equal(loaded(images(2), "step 1"), manager(images(2), "step 1"))
    assert loaded.frozen_tasks == {"step 0"}
    assert not any(p.requires_grad for p in head.part("step 0").parameters())


def test_full_fine_tuning_saves_the_backbone_and_loads_on_the_original(tmp_path: Path) -> None:
    manager = manager_of("full")
    manager.save(tmp_path)
    backbone = tiny_backbone("vit")
    loaded = mtpeft.load(tmp_path, backbone).eval()
    assert torch.equal(loaded(images(2), "birds"), manager(images(2), "birds"))
    original = tiny_backbone("vit").state_dict()
    restored = loaded.detach().state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in original.items())


def test_a_head_of_ones_own_is_given_at_load(tmp_path: Path) -> None:
    manager = manager_of()
    manager.add_task("own", head=nn.Sequential(nn.Linear(48, 4)))
    manager.save(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"task 'own' has a head of your own \(Sequential\); pass heads=\{'own': module\}"
    ):
        mtpeft.load(tmp_path, tiny_backbone("vit"))
    loaded = mtpeft.load(tmp_path, tiny_backbone("vit"), heads={"own": nn.Sequential(nn.Linear(48, 4))})
    assert torch.equal(loaded.eval()(images(2), "own"), manager(images(2), "own"))


def test_another_backbone_is_refused_unless_forced_and_that_is_recorded(saved: Path, tmp_path: Path) -> None:
    other = tiny_backbone("vit", seed=1)
    before = Snapshot(other, Case("lora", "vit"))
    with pytest.raises(
        CheckpointError, match=r"was trained on the backbone VisionTransformer [0-9a-f]{12}, this one is .*force=True"
    ) as error:
        mtpeft.load(saved, other)
    assert "\n" not in str(error.value)
    before.compare(other, "after a refused load")
    forced = mtpeft.load(saved, other, force=True)
    assert forced.forced
    forced.save(tmp_path / "again")
    again = mtpeft.load(tmp_path / "again", tiny_backbone("vit", seed=1))
    assert again.forced
    assert json.loads((tmp_path / "again" / "manifest.json").read_text())["backbone"]["forced"] is True
    assert not mtpeft.load(saved, tiny_backbone("vit")).forced


def test_the_classifier_of_the_backbone_does_not_matter(saved: Path) -> None:
    backbone: Any = tiny_backbone("vit")
    backbone.reset_classifier(7)
    assert mtpeft.load(saved, backbone).tasks == ["birds", "old cars"]


def flip_a_byte(folder: Path) -> None:
    data = bytearray(weights_file(folder).read_bytes())
    data[-1] ^= 1
    weights_file(folder).write_bytes(data)


def cut_short(folder: Path) -> None:
    weights_file(folder).write_bytes(weights_file(folder).read_bytes()[:-100])


def other_name(folder: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        name = sorted(tensors)[0]
        tensors["x." + name] = tensors.pop(name)

    edit_weights(folder, edit)


def other_shape(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({sorted(tensors)[0]: torch.zeros(1, 1)}))


def half_a_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (flip_a_byte, "is damaged: its SHA-256 is not the manifest's; take another copy"),
    (cut_short, "is damaged: its SHA-256 is not the manifest's"),
    (lambda f: weights_file(f).unlink(), "cannot read .*weights-.*: No such file or directory; the manifest names it"),
    (half_a_manifest, "manifest.json is damaged"),
    (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is damaged"),
    (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"), "manifest.json is damaged"),
    (lambda f: edit_manifest(f, lambda m: m.pop("format")), "has format None, this version reads 2"),
    (
        lambda f: edit_manifest(f, lambda m: m.pop("weights")),
        "not what this version writes: manifest lacks key 'weights'",
    ),
    (
        lambda f: edit_manifest(f, lambda m: m["methods"][0].pop("config")),
        "not what this version writes: methods lacks key 'config'",
    ),
    (lambda f: edit_manifest(f, lambda m: m.update(tasks=3)), "tasks is 3, expected a list of items"),
    (lambda f: edit_manifest(f, lambda m: m.update(format=99)), "has format 99, this version reads 2; update mtpeft"),
    (lambda f: (f / "manifest.json").unlink(), "is no saved manager: it has no manifest.json"),
    (
        lambda f: edit_manifest(f, lambda m: m["methods"][0].update(name="lorra")),
        "unknown method 'lorra'. Did you mean 'lora'",
    ),
    (
        lambda f: edit_manifest(f, lambda m: m["methods"][0]["config"].update(ranks=3)),
        "takes no option 'ranks'. Did you mean 'rank'",
    ),
    (
        lambda f: edit_weights(f, lambda t: t.pop(sorted(t)[0])),
        r"lacks 'attachments.0.*' \(1 missing, 0 unknown weights\)",
    ),
    (
        lambda f: edit_weights(f, lambda t: t.update(zebra=torch.zeros(2))),
        r"has 'zebra' that nothing here takes \(0 missing, 1 unknown",
    ),
    (other_name, r"lacks 'attachments.0.* \(1 missing, 1 unknown weights\)"),
    (other_shape, r"has shape \(1, 1\), here it is \("),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[f"{i}" for i in range(len(DAMAGE))])
def test_damage_is_one_line_and_leaves_the_backbone_as_it_was(
    saved: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(saved)
    backbone = tiny_backbone("vit")
    before = Snapshot(backbone, Case("lora", "vit"))
    with pytest.raises(MtpeftError, match=message) as error:
        mtpeft.load(saved, backbone)
    assert "\n" not in str(error.value)
    before.compare(backbone, "after a refused load")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere is no saved manager: it has no manifest\.json"):
        mtpeft.load(tmp_path / "nowhere", tiny_backbone("vit"))


def test_nothing_is_unpickled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert mtpeft.load(saved, tiny_backbone("vit")).tasks == ["birds", "old cars"]


@pytest.mark.parametrize("survivor", [0, 1], ids=["before the weights", "between weights and manifest"])
def test_a_kill_while_saving_over_an_older_checkpoint_leaves_the_older_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch, survivor: int
) -> None:
    older = mtpeft.load(saved, tiny_backbone("vit")).eval()
    newer = manager_of()
    perturb(newer, seed=5)
    newer.add_task("dogs", num_classes=2)
    calls = 0
    real = os.replace

    def killed(source: Any, target: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > survivor:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        newer.save(saved)
    monkeypatch.undo()
    loaded = mtpeft.load(saved, tiny_backbone("vit")).eval()
    assert loaded.tasks == older.tasks
    assert torch.equal(loaded(images(2), "birds"), older(images(2), "birds"))
    newer.save(saved)
    assert mtpeft.load(saved, tiny_backbone("vit")).tasks == newer.tasks
    weights_file(saved)  # the older weights are gone


def test_saving_again_the_same_weights(saved: Path) -> None:
    loaded = mtpeft.load(saved, tiny_backbone("vit"))
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    loaded.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_full_disk_is_one_line_and_leaves_the_older_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    manager = manager_of()
    perturb(manager, seed=9)
    with pytest.raises(
        MtpeftError, match=r"cannot write .*: No space left on device; what was there before is unchanged"
    ):
        manager.save(saved)
    monkeypatch.undo()
    assert mtpeft.load(saved, tiny_backbone("vit")).tasks == ["birds", "old cars"]
    assert sorted(p.name for p in saved.iterdir()) == ["manifest.json", weights_file(saved).name]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file stands where the folder should be: refused for every user, root included."""
    (tmp_path / "file").write_text("")
    with pytest.raises(MtpeftError, match=r"cannot write .*file") as error:
        manager_of().save(tmp_path / "file" / "run")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path: Path, dtype: torch.dtype) -> None:
    manager = mtpeft.attach(tiny_backbone("vit").to(dtype), "lora")
    manager.add_task("birds", num_classes=3)
    perturb(manager.eval())
    manager.save(tmp_path)
    loaded = mtpeft.load(tmp_path, tiny_backbone("vit").to(dtype)).eval()
    assert torch.equal(loaded(images(2, dtype), "birds"), manager(images(2, dtype), "birds"))


def test_options_that_json_cannot_hold_are_refused_before_anything_is_written(saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    manager = manager_of()
    manager.head_specs["birds"]["num_classes"] = torch.tensor(3)
    with pytest.raises(
        CheckpointError, match=r"cannot save .*Tensor is not JSON serializable; give methods and heads options of plain"
    ):
        manager.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
