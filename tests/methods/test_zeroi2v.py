"""ZeroI2V: heads that read other frames, adapters that fold, and what is left of it in a merged model: no weight."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from counted import trained
from naive import NaiveViT, assert_close, attached, linear, norm

import mtpeft
from mtpeft.errors import ConfigError, DataError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import clips, perturb

T = torch.Tensor
FRAMES = 3
X = clips(2).double()  # (2, 3, T, 64, 64)
FOLDED = X.transpose(1, 2).flatten(0, 1)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 14_209_536), ({"exclude": ("fc2",)}, 14_209_536 - 12 * 295_872), ({"num_frames": 16}, 14_209_536 + 8 * 768)],
)
def test_trained_weights(options: dict[str, Any], expected: int) -> None:
    assert trained("vit_base_patch16_clip_224", "zeroi2v", **options) == expected


def adapter(site: Any, x: T, scale: float = 0.5) -> T:
    return scale * linear(site.up, linear(site.down, x))


def shift(x: T, head_frames: tuple[int, ...], head_dim: int) -> T:
    """Keys or values (B T, N, d), one head and one frame after the other."""
    out = x.clone()
    for head, away in enumerate(head_frames):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        for row in range(len(x)):
            if 0 <= row % FRAMES + away < FRAMES:
                out[row, :, columns] = x[row + away, :, columns]
    return out


@pytest.mark.parametrize(("anatomy", "head_frames"), [("vit", (-1, 1)), ("vit", (1, 2, -1)), ("dinov2", (-1,))])
def test_formula(anatomy: str, head_frames: tuple[int, ...]) -> None:
    model, manager, sites = attached(anatomy, "zeroi2v", num_frames=FRAMES, head_frames=head_frames)
    plain = NaiveViT(
        model,
        tokens=lambda x, i: x + sites["frames_embed", None].positions.repeat(2, 1, 1) if i == 0 else x,
        norm1=lambda u, i: u + adapter(sites["attention_in", i], u),
        norm2=lambda u, i: u + adapter(sites["mlp_in", i], u),
        kv=lambda kv, i: tuple(shift(part, head_frames, 16) for part in kv),
        proj=lambda y, x, i: y + adapter(sites["proj", i], y),
        fc2=lambda y, x, i: y + adapter(sites["fc2", i], y),
        final_norm=lambda y, x: norm(sites["final_norm", None].norm, x),
    )
    assert_close(manager.features(X, "birds"), plain(FOLDED)[:, 0].view(2, FRAMES, -1).mean(1))


def test_starts_at_the_backbone_for_images_and_still_clips() -> None:
    manager = mtpeft.attach(tiny_backbone("vit").double(), "zeroi2v", num_frames=FRAMES)
    manager.add_task("birds", num_classes=3)
    manager.eval()
    image: Any = X[:, :, 0]
    plain: Any = tiny_backbone("vit").double()
    assert_close(manager.features(image, "birds"), plain(image))
    still = image.unsqueeze(2).expand(-1, -1, FRAMES, -1, -1)
    assert_close(manager.features(still, "birds"), plain(image))
    assert (manager.features(X, "birds") - plain(FOLDED).view(2, FRAMES, -1).mean(1)).abs().max() > 1e-3


def test_merged_it_has_the_backbone_s_weights_and_with_its_shifts_what_it_had() -> None:
    """The layers are changed and none is added; for clips the heads' frames are attached to the merged model again."""
    backbone: Any = tiny_backbone("clip").double()
    manager = mtpeft.attach(backbone, "zeroi2v", num_frames=FRAMES)
    manager.add_task("birds", num_classes=3)
    perturb(manager, std=0.2)
    manager.eval()
    with pytest.warns(
        UserWarning, match=r"'zeroi2v' acts between the frames of a clip \(frames_embed, frames_k, frames_v\)"
    ):
        merged: Any = manager.merge("birds")
    plain: Any = tiny_backbone("clip")
    plain.reset_classifier(3)
    assert sum(p.numel() for p in merged.parameters()) == sum(p.numel() for p in plain.parameters())
    image = X[:, :, 0]
    assert_close(merged(image), manager(image, "birds"))

    merged.reset_classifier(0)
    again = mtpeft.attach(merged, "zeroi2v", num_frames=FRAMES, sites=("frames_embed", "frames_k", "frames_v"))
    again.add_task("birds", num_classes=3)
    positions = [p for p in again.parameters() if p.shape == (FRAMES, 1, 48)]
    assert len(positions) == 1 and sum(p.numel() for p in again.attachments.parameters()) == FRAMES * 48
    positions[0].copy_(next(p for p in manager.attachments.parameters() if p.shape == (FRAMES, 1, 48)))
    assert_close(again.eval().features(X, "birds"), manager.features(X, "birds"))


def test_folds_behind_lora_whatever_the_order() -> None:
    """What stands before a layer multiplies all that was added to the layer."""
    for methods in (["zeroi2v", "lora"], ["lora", "zeroi2v"]):
        options = {"zeroi2v": {"num_frames": FRAMES}, "lora": {"sites": ("qkv", "fc1", "fc2")}}
        manager = mtpeft.attach(tiny_backbone("vit").double(), [{"name": name, **options[name]} for name in methods])
        manager.add_task("birds", num_classes=3)
        perturb(manager, std=0.2)
        manager.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            merged: Any = manager.merge("birds")
        assert_close(merged(X[:, :, 0]), manager(X[:, :, 0], "birds"))


def test_refusals() -> None:
    backbone = tiny_backbone("vit")
    with pytest.raises(ConfigError, match="head_frames gives 4 heads to other frames, and attention has 3"):
        mtpeft.attach(backbone, "zeroi2v", head_frames=(-1, 1, 2, -2))
    with pytest.raises(ConfigError, match="it cannot act at the sites norm1"):
        mtpeft.attach(backbone, "zeroi2v", sites=("norm1",))
    with pytest.raises(ConfigError, match=r"'zeroi2v' cannot be attached to SwinTransformer"):
        mtpeft.attach(tiny_backbone("swin"), "zeroi2v")
    manager = mtpeft.attach(backbone, "zeroi2v", num_frames=FRAMES)
    manager.add_task("birds", num_classes=3)
    with pytest.raises(DataError, match="clips of 2 frames, but `zeroi2v` was attached with num_frames=3"):
        manager(clips(1)[:, :, :2], "birds")
