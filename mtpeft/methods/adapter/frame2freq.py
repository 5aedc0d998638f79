"""Frame2Freq: a bottleneck in the stream of a frozen image transformer that filters the spectrum of every patch over time.

Ponbagavathi, Seibold, Roitberg, "Frame2Freq: Spectral Adapters for Fine-Grained Video Understanding", CVPR 2026
(arXiv 2602.18977). Class and register tokens pass by. Multi-scale (`ms`): half of the hidden channels are filtered in windows of
T, T / 2 and T / 4 frames by one convolution along frequency, and averaged over the windows; the other half is convolved over
time. Short-time (`st`): spectra of overlapping Hann windows, convolved along time and along frequency.

No code is published; what follows is ours: real and imaginary parts share a real kernel of three taps; filters are s + conv(s)
and start at s; windows of `ms` do not overlap, are inverted before they are averaged, and a last one that is too short is filled
with zeros; those of `st` have `window` frames and overlap by half, so that unfiltered they add up to the clip. Adapters stand
before every block: behind the last one, patches would be read by no class token. W_up starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.precision import without_autocast
from mtpeft.methods.spec import register
from mtpeft.options import Count


@dataclass(frozen=True, kw_only=True)
class Frame2FreqConfig(MethodConfig):
    """`variant` ms or st; `bottleneck_dim` (None: 384 for ms, 192 for st, the published 7.3 and 3.5 M on ViT-B).

    `scales`: how often `ms` halves its windows, and the whole clip; `window`: frames of those of `st`, an even number.
    """

    sites: Sites = ("frames_block",)
    variant: Literal["ms", "st"] = "ms"
    bottleneck_dim: Count | None = None
    scales: Count = 3
    window: Count = 4


def along(z: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """z + conv(z) along the last axis: z (B, C, ..., F), kernel (C, 3), a channel each."""
    rows = F.conv2d(z.flatten(2, -2), kernel[:, None, None], padding=(0, 1), groups=z.shape[1])
    return z + rows.view(z.shape)


def filled(z: torch.Tensor, width: int) -> torch.Tensor:
    """Zeros behind the frames, (..., T) -> (..., the next multiple of `width`)."""
    return F.pad(z, (0, -z.shape[-1] % width))


@register(
    "frame2freq",
    Frame2FreqConfig,
    paper="Ponbagavathi et al., CVPR 2026 (arXiv 2602.18977)",
    weights="L * ((2 * d + 4) * r + d) where r = 384",
)
class Frame2Freq(SiteModule):
    """W_up filter(W_down x + b_d) + b_u is added to the patches."""

    styles: ClassVar[tuple[str, ...]] = ("frames", "frames_branch")

    def __init__(self, config: Frame2FreqConfig, site: Site) -> None:
        super().__init__(config, site)
        self.site, self.variant, self.scales, self.window = site, config.variant, config.scales, config.window
        hidden = config.bottleneck_dim or {"ms": 384, "st": 192}[config.variant]
        spectral = hidden - hidden // 2 if config.variant == "ms" else hidden
        self.down, self.up = nn.Linear(site.dim, hidden), nn.Linear(hidden, site.dim)
        self.over_frequency = nn.Parameter(torch.zeros(spectral, 3))
        self.over_time = nn.Parameter(torch.zeros(hidden // 2 if config.variant == "ms" else hidden, 3))
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stream x (B, T, P + HW, d) -> what is added to it, the same shape; zero for the P prefix tokens."""
        prefix = self.site.prefix_tokens
        z = self.down(x[:, :, prefix:]).permute(0, 3, 2, 1)  # (B, r, HW, T)
        with without_autocast(z):
            filtered = (self._multi_scale if self.variant == "ms" else self._short_time)(wide(z)).to(z.dtype)
        return F.pad(self.up(filtered.permute(0, 3, 2, 1)), (0, 0, prefix, 0))

    def _multi_scale(self, z: torch.Tensor) -> torch.Tensor:
        """(B, r, N, T) -> the same shape: the first half by its spectra, the second by its neighbours in time."""
        frames = z.shape[-1]
        spectral, temporal = z.split([len(self.over_frequency), len(self.over_time)], dim=1)
        found = []
        for scale in range(self.scales):
            width = -(-frames // 2**scale)  # rounded up
            windows = filled(spectral, width).unflatten(-1, (-1, width))
            found.append(self._filtered(windows).flatten(-2)[..., :frames])
        return torch.cat([torch.stack(found).mean(0), along(temporal, wide(self.over_time))], dim=1)

    def _short_time(self, z: torch.Tensor) -> torch.Tensor:
        """(B, r, N, T) -> the same shape, by windows that begin every half a window."""
        frames, half = z.shape[-1], self.window // 2
        shape = torch.hann_window(self.window, periodic=True, dtype=z.dtype, device=z.device)
        windows = F.pad(filled(z, half), (half, half)).unfold(-1, self.window, half) * shape  # (B, r, N, T', window)
        windows = self._filtered(windows, wide(self.over_time))
        first, second = (
            F.pad(windows[..., :half].flatten(-2), (0, half)),
            F.pad(windows[..., half:].flatten(-2), (half, 0)),
        )
        return (first + second)[..., half : half + frames]

    def _filtered(self, windows: torch.Tensor, over_time: torch.Tensor | None = None) -> torch.Tensor:
        """Windows (B, r, N, T', w) by their spectra: along T' with `over_time`, and along frequency."""
        spectrum = torch.view_as_real(torch.fft.rfft(windows, norm="ortho")).movedim(-1, 2)  # (B, r, 2, N, T', F)
        if over_time is not None:
            spectrum = along(spectrum.transpose(-1, -2), over_time).transpose(-1, -2)
        spectrum = along(spectrum, wide(self.over_frequency)).movedim(2, -1).contiguous()
        return torch.fft.irfft(torch.view_as_complex(spectrum), n=windows.shape[-1], norm="ortho")

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Windows that overlap by half have two halves; a bottleneck of two halves has two channels."""
        if config.variant == "st" and config.window % 2:
            return f"window={config.window} must be even: windows overlap by half"
        if config.variant == "ms" and config.bottleneck_dim == 1:
            return "bottleneck_dim=1 has no half for spectra and one for time"
        return None
