"""The head for clips: what it reads, how it pools, what it knows of order."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mtpeft
from mtpeft.errors import ConfigError, DataError, MtpeftError
from mtpeft.heads import VideoLinearHead
from mtpeft.heads.build import head_options
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import clips


def head(pool: str, **options: Any) -> VideoLinearHead:
    torch.manual_seed(0)
    made = VideoLinearHead(16, 5, pool=pool, **options)
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made.eval()


FRAMES = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))


def test_the_mean_is_the_linear_layer_of_the_mean_frame() -> None:
    made = head("mean")
    torch.testing.assert_close(made(FRAMES), FRAMES.mean(1) @ made.fc.weight.T + made.fc.bias)
    assert made.frame_weights(FRAMES) is None and head("transformer").frame_weights(FRAMES) is None


def test_attention_is_the_mean_under_its_own_weights() -> None:
    made = head("attention")
    scores = torch.tanh(FRAMES + made.positions[:4]) @ made.query.weight[0] + made.query.bias
    weights = scores.exp() / scores.exp().sum(1, keepdim=True)
    torch.testing.assert_close(made.frame_weights(FRAMES), weights)
    pooled = (weights.unsqueeze(-1) * FRAMES).sum(1)
    torch.testing.assert_close(made(FRAMES), pooled @ made.fc.weight.T + made.fc.bias)


@pytest.mark.parametrize(("pool", "ordered"), [("mean", False), ("attention", True), ("transformer", True)])
def test_what_each_pool_knows_of_order(pool: str, ordered: bool) -> None:
    made = head(pool)
    difference = (made(FRAMES) - made(FRAMES.flip(1))).abs().amax(dim=1)
    assert (difference.min() > 1e-2) if ordered else (difference.max() < 1e-5)


@pytest.mark.parametrize("pool", ["mean", "attention", "transformer"])
def test_every_weight_gets_a_gradient(pool: str) -> None:
    made = head(pool).train()
    made(FRAMES.repeat(1, 2, 1)).square().sum().backward()
    softmax_s_own = {"query.bias"}  # common to all frames
    assert not [n for n, p in made.named_parameters() if n not in softmax_s_own and not p.grad.any()]  # type: ignore[union-attr]


def test_clips_and_images_through_the_manager(tmp_path: Any) -> None:
    manager = mtpeft.attach(tiny_backbone("swin"), "linear_probe")
    for pool in ("mean", "attention", "transformer"):
        manager.add_task(pool, head="video_linear", num_classes=5, pool=pool, num_frames=3)
    manager.eval()
    batch = clips(2)
    with torch.no_grad():
        outputs = manager.forward_tasks(batch, manager.tasks)
        frames = torch.stack([manager.features(batch[:, :, t], "mean") for t in range(3)], dim=1)
        for task in manager.tasks:
            torch.testing.assert_close(outputs[task], manager.head(task)(frames), atol=1e-5, rtol=1e-5)
            one = manager(batch[:, :, 0], task)
            torch.testing.assert_close(one, manager.head(task)(frames[:, :1]), atol=1e-5, rtol=1e-5)
        weights = manager.frame_weights(batch, "attention")
        torch.testing.assert_close(weights, manager.head("attention").frame_weights(frames))  # type: ignore[operator]
        assert manager.frame_weights(batch, "mean") is None
        manager.save(tmp_path / "saved")
        loaded = mtpeft.load(tmp_path / "saved", tiny_backbone("swin")).eval()
        assert torch.equal(loaded(batch, "transformer"), manager(batch, "transformer"))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pool": "max"}, ConfigError, "pool is 'max', expected one of mean, attention, transformer"),
        ({"pool": "transformer", "num_heads": 3}, ConfigError, "num_heads=3 does not divide the features' width 16"),
        ({"num_heads": 0}, ConfigError, "num_heads is 0, expected a whole number from 1"),
        ({"num_frames": "abc"}, ConfigError, "num_frames is 'abc', expected a whole number from 1"),
        ({"dropout": 2}, ConfigError, "dropout is 2, expected a number from 0 to below 1"),
        ({"num_classes": 0}, ConfigError, "num_classes is 0, expected a whole number from 1"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[MtpeftError], words: str) -> None:
    with pytest.raises(error, match=words):
        VideoLinearHead(16, **head_options("video_linear", {"num_classes": 5, **options}))


def test_more_frames_than_positions() -> None:
    with pytest.raises(DataError, match="clips of 4 frames, but head 'video_linear' has num_frames=3"):
        head("attention", num_frames=3)(FRAMES)
