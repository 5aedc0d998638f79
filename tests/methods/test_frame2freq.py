"""Frame2Freq against spectra written out by sines and cosines, and what its windows do to a clip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from counted import trained
from naive import NaiveViT, assert_close, attached, linear

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.methods import METHODS
from mtpeft.methods.adapter.frame2freq import Frame2Freq
from mtpeft.testing import tiny_backbone

T = torch.Tensor
CONVS = 12 * 384 * 3


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 7_091_712 + CONVS),
        ({"variant": "st"}, 3_550_464 + CONVS),
        ({"sites": ("frames_block", "frames_mlp")}, 2 * (7_091_712 + CONVS)),
    ],
)
def test_trained_weights(options: dict[str, Any], expected: int) -> None:
    assert trained("vit_base_patch16_224", "frame2freq", **options) == expected


def taps(kernel: T, values: T) -> T:
    """values + their convolution, along the first axis: kernel (3,), values (F, ...)."""
    out = values.clone()
    for place in range(len(values)):
        for tap in (-1, 0, 1):
            if 0 <= place + tap < len(values):
                out[place] += kernel[tap + 1] * values[place + tap]
    return out


def spectrum(values: T) -> tuple[T, T]:
    """Real and imaginary part of a real sequence's spectrum: (w, ...) -> (w // 2 + 1, ...)."""
    width = len(values)
    angle = 2 * math.pi * torch.outer(torch.arange(width // 2 + 1.0), torch.arange(float(width))).double() / width
    return (torch.einsum("fw,w...->f...", f(angle), values) / width**0.5 for f in (torch.cos, lambda a: -torch.sin(a)))


def sequence(real: T, imaginary: T, width: int) -> T:
    """The real sequence of `width` values with this spectrum."""
    out = torch.zeros(width, *real.shape[1:]).double()
    for f in range(len(real)):
        twice = 1 if f == 0 or 2 * f == width else 2
        for n in range(width):
            angle = 2 * math.pi * f * n / width
            out[n] += twice * (real[f] * math.cos(angle) - imaginary[f] * math.sin(angle)) / width**0.5
    return out


def multi_scale(site: Any, z: T) -> T:
    """z (T, N, r) of one clip, channel by channel and window by window."""
    frames, out, spectral = len(z), torch.zeros_like(z), len(site.over_frequency)
    for c in range(spectral):
        for scale in range(3):
            width = math.ceil(frames / 2**scale)
            for start in range(0, frames, width):
                window = torch.zeros(width, z.shape[1]).double()
                window[: frames - start] = z[start : start + width, :, c]
                parts = [taps(site.over_frequency[c], part) for part in spectrum(window)]
                out[start : start + width, :, c] += sequence(*parts, width)[: frames - start] / 3
    for c in range(z.shape[-1] - spectral):
        out[..., spectral + c] = taps(site.over_time[c], z[..., spectral + c])
    return out


def short_time(site: Any, z: T, window: int = 4) -> T:
    """z (T, N, r) of one clip, channel by channel."""
    frames, half, out = len(z), window // 2, torch.zeros_like(z)
    shape = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(window).double() / window)
    starts = range(-half, frames, half)
    for c in range(z.shape[-1]):
        spectra = []
        for start in starts:
            cut = torch.zeros(window, z.shape[1]).double()
            for n in range(window):
                if 0 <= start + n < frames:
                    cut[n] = shape[n] * z[start + n, :, c]
            spectra.append(torch.stack([*spectrum(cut)]))  # (2, F, N)
        filtered = taps(site.over_time[c], torch.stack(spectra))  # (T', 2, F, N)
        for start, found in zip(starts, filtered, strict=True):
            real, imaginary = (taps(site.over_frequency[c], part) for part in found)
            cut = sequence(real, imaginary, window)
            for n in range(window):
                if 0 <= start + n < frames:
                    out[start + n, :, c] += cut[n]
    return out


@pytest.mark.parametrize(("variant", "frames"), [("ms", 4), ("ms", 3), ("ms", 1), ("st", 4), ("st", 3), ("st", 6)])
def test_formula(variant: str, frames: int) -> None:
    model, manager, sites = attached("vit", "frame2freq", variant=variant, bottleneck_dim=5)
    clips = torch.randn(2, 3, frames, 64, 64, generator=torch.Generator().manual_seed(3)).double()
    filtered = {"ms": multi_scale, "st": short_time}[variant]

    def enter(x: T, i: int) -> T:
        site = sites["frames_block", i]
        z = linear(site.down, x[:, 1:]).unflatten(0, (2, frames))
        change = linear(site.up, torch.stack([filtered(site, clip) for clip in z]).flatten(0, 1))
        return torch.cat([x[:, :1], x[:, 1:] + change], dim=1)

    plain = NaiveViT(model, tokens=enter)
    expected = plain(clips.transpose(1, 2).flatten(0, 1))[:, 0].view(2, frames, -1).mean(1)
    assert_close(manager.features(clips, "birds"), expected)


@pytest.mark.parametrize("variant", ["ms", "st"])
@pytest.mark.parametrize("frames", [1, 5, 8])
def test_unfiltered_the_windows_add_up_to_the_clip(variant: str, frames: int) -> None:
    """At the start the kernels are zero: what comes out of all windows is what went in."""
    backbone = tiny_backbone("vit").double()
    manager = mtpeft.attach(backbone, "frame2freq", variant=variant, bottleneck_dim=6)
    site = manager.attachments[0].selected[0]
    config = METHODS.get("frame2freq").build_config({"variant": variant, "bottleneck_dim": 6})
    module: Any = Frame2Freq(config, site).double()
    z = torch.randn(2, 6, 7, frames).double()
    assert_close((module._multi_scale if variant == "ms" else module._short_time)(z), z)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="window=3 must be even"):
        mtpeft.attach(tiny_backbone("vit"), "frame2freq", variant="st", window=3)
    with pytest.raises(ConfigError, match="bottleneck_dim=1 has no half"):
        mtpeft.attach(tiny_backbone("vit"), "frame2freq", bottleneck_dim=1)
