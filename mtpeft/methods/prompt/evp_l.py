"""EVP-L: explicit prompts of an image's high frequencies and of its patches, added to the patch tokens before every block.

Liu et al., "Explicit Visual Prompting for Low-Level Structure Segmentations", CVPR 2023 (arXiv 2303.10883), section 3. The
paper calls it EVP; it has nothing to do with the pixels of `evp`. Prefix tokens pass by.

On a plain transformer there is one generator, which reads the patch embedding before positions are added, and a patch
embedding of its own of the high frequencies (the authors' SETR). A pyramid has one generator for each stage, which reads what
enters the stage, and embeds the high frequencies from stage to stage by overlapping patches with a norm (their SegFormer;
Swin, of which they say nothing, is treated alike). Masks come from a task's head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Share


@dataclass(frozen=True, kw_only=True)
class EVPLConfig(MethodConfig):
    """`reduction` s: prompts are made at width d / s; None for the authors' 4 on pyramids and 32 on plain transformers.

    `mask_ratio` tau: the share of the spectrum, around zero frequency, that is taken away.
    """

    sites: Sites = ("patch_embed", "entry")
    reduction: Count | None = None
    mask_ratio: Share = 0.25


def high_frequencies(images: torch.Tensor, mask_ratio: float) -> torch.Tensor:
    """Images (B, C, H, W) without the square of low frequencies that is `mask_ratio` of the spectrum, as magnitudes."""
    height, width = images.shape[-2:]
    half = int(math.sqrt(height * width * mask_ratio) / 2)
    kept = torch.ones(height, width, device=images.device)
    rows, columns = (slice(max(0, size // 2 - half), size // 2 + half) for size in (height, width))
    kept[rows, columns] = 0
    spectrum = torch.fft.fftshift(torch.fft.fft2(wide(images)), dim=(-2, -1)) * kept
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real.abs().to(images.dtype)


class Embedding(nn.Module):
    """Patches of a map (B, C, H, W) at width r, (B, r, h, w): every `stride` pixels, overlapping and normed, or neither."""

    def __init__(self, channels: int, dim: int, stride: int, overlap: bool) -> None:
        super().__init__()
        size, padding = (2 * stride - 1, stride - 1) if overlap else (stride, 0)
        self.proj = nn.Conv2d(channels, dim, size, stride, padding)
        self.norm = nn.LayerNorm(dim) if overlap else nn.Identity()
        nn.init.normal_(self.proj.weight, std=math.sqrt(2 / (size**2 * dim)))
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, r, h, w)."""
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)


def linear(dim: int, dim_out: int) -> nn.Linear:
    """A linear layer from N(0, 0.02^2), truncated, with zero bias."""
    layer = nn.Linear(dim, dim_out)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def stage_of(site: Site) -> int:
    """The stage of a block, 0 for all blocks of a plain transformer."""
    return (site.stage or 0) if site.pyramid else 0


def begins(site: Site) -> bool:
    """Whether a generator stands here: at the patch embedding, or where a stage of a pyramid begins."""
    return site.pyramid and site.place == 0 if site.kind == "entry" else not site.pyramid


def reduction(config: EVPLConfig, site: Site) -> int:
    """s, as asked for or as the authors have it."""
    return config.reduction or (4 if site.pyramid else 32)


def width(config: EVPLConfig, site: Site, dim: int) -> int:
    """The width r of prompts of a stage whose tokens are `dim` wide."""
    return dim // reduction(config, site)


class SharedUp(nn.Module):
    """MLP_up: from width r to d, one for all blocks of a stage."""

    def __init__(self, config: EVPLConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        first = {stage_of(site): site for site in reversed(sites) if site.kind == "entry"}
        self.stages = nn.ModuleDict({str(s): linear(width(config, e, e.dim), e.dim) for s, e in sorted(first.items())})


@register(
    "evp_l",
    EVPLConfig,
    paper="Liu et al., CVPR 2023 (arXiv 2303.10883)",
    properties=Properties(identity_at_init=False),
    weights="(2 * d + 3 * p ** 2 + 2) * c + d + L * (c ** 2 + c) where c = d // 32",
)
class EVPL(SiteModule):
    """x + P_i,  P_i = MLP_up(gelu(MLP_i(F_pe + F_hfc))),  F_pe = W x_0,  F_hfc = embedding of the high frequencies.

    The state is F_pe + F_hfc (B, HW, r), with the map that the next stage embeds on a pyramid.
    """

    stateful: ClassVar[bool] = True
    model_module: ClassVar[type[nn.Module] | None] = SharedUp

    def __init__(self, config: EVPLConfig, site: Site) -> None:
        super().__init__(config, site)
        self.site, self.mask_ratio, self.stage = site, config.mask_ratio, str(stage_of(site))
        dim = site.dim_out
        r = width(config, site, dim)
        if begins(site):
            self.tune = linear(dim, r)
            if site.kind == "entry":
                stride, before = site.stages[stage_of(site)].stride, site.in_channels
                if stage_of(site):
                    last = site.stages[stage_of(site) - 1]
                    stride, before = stride // last.stride, width(config, site, last.dim)
                self.embed = Embedding(before, r, stride, overlap=True)
            else:
                self.embed = Embedding(site.in_channels, r, site.patch_size, overlap=False)
        if site.kind == "entry":
            self.mlp = linear(r, r)

    def forward(self, x: torch.Tensor, y: torch.Tensor, *state: torch.Tensor, model: Any) -> tuple[torch.Tensor, ...]:
        """Images x and their patches y (B, d, H, W), then what enters each block, (B, P + HW, d) or (B, H, W, d)."""
        if self.site.kind == "patch_embed":
            maps = high_frequencies(x, self.mask_ratio)
            return (y, maps) if self.site.pyramid else (y, self.features(y, self.embed(maps)))
        features, maps = state[0], state[-1]
        if begins(self.site):
            maps = self.embed(maps)
            features = self.features(self.site.split_prefix(y)[1], maps)
        prompt = model.stages[self.stage](nn.functional.gelu(self.mlp(features)))
        kept = (maps,) if self.site.pyramid else ()
        if y.ndim == 4:
            return y + prompt.view_as(y), features, *kept
        start = y.shape[1] - prompt.shape[1]
        return torch.cat([y[:, :start], y[:, start:] + prompt], dim=1), features, *kept

    def features(self, patches: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Patches (B, d, H, W) and embedded high frequencies (B, r, H, W) -> F_pe + F_hfc (B, HW, r)."""
        return self.tune(patches.flatten(2).transpose(1, 2)) + embedded.flatten(2).transpose(1, 2)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Generators read every stage from the first on, at widths that leave something."""
        if {site.kind for site in sites} != {"patch_embed", "entry"}:
            return "it reads the patch embedding and changes what enters blocks: sites=('patch_embed', 'entry')"
        entries = [site for site in sites if site.kind == "entry"]
        if any(site.grid == (0, 0) for site in entries):
            return "its prompts are laid on the map that the patches form, which the model does not tell"
        stem = next(site for site in sites if site.kind == "patch_embed")
        if stem.dim != stem.in_channels:
            return "its high frequencies are those of the image, and what makes the patches is fed by other layers"
        if stem.pyramid:
            reached = range(max(map(stage_of, entries)) + 1)
            if missing := set(reached) - {stage_of(site) for site in entries if begins(site)}:
                return f"its prompts go on from stage to stage, and the first block of stage {min(missing)} is left out"
        for site in entries:
            if site.dim != site.stages[stage_of(site)].dim:
                return (
                    f"block {site.block} enters a stage of {site.stages[stage_of(site)].dim} channels with {site.dim}"
                )
            if not width(config, site, site.dim):
                return f"reduction={reduction(config, site)} leaves nothing of a width of {site.dim}"
        return None
