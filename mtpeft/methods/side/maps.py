"""Features as maps and back: tokens with prefix tokens in front, maps with channels last, maps with channels first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from mtpeft.backbones.site import Site


def map_of(site: Site, x: torch.Tensor) -> torch.Tensor:
    """Features at a site -> their map (B, C, H, W), without prefix tokens."""
    return x if site.channel_axis == 1 else site.split_prefix(x)[1]


def beside_maps(
    site: Site,
    x: torch.Tensor,
    change: Callable[[torch.Tensor], torch.Tensor],
    change_prefix: Callable[[torch.Tensor], torch.Tensor] = lambda prefix: prefix,
) -> torch.Tensor:
    """x with its map (B, C, H, W) changed, and its prefix tokens (B, P, C); by default they stay as they are."""
    if site.channel_axis == 1:
        return change(x)
    prefix, patches = site.split_prefix(x)
    changed = change(patches)
    if x.ndim == 4:
        return changed.permute(0, 2, 3, 1)
    return torch.cat([change_prefix(prefix), changed.flatten(2).transpose(1, 2)], dim=1)


def like_features(site: Site, maps: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A map (B, C, h, w) in the layout and at the size of features y; prefix tokens get its mean."""
    if site.channel_axis == 1:
        return resized(maps, y.shape[2:])
    prefix, patches = site.split_prefix(y)
    fitted = resized(maps, patches.shape[2:])
    if y.ndim == 4:
        return fitted.permute(0, 2, 3, 1)
    mean = maps.mean(dim=(2, 3)).unsqueeze(1).expand(-1, prefix.shape[1], -1)
    return torch.cat([mean, fitted.flatten(2).transpose(1, 2)], dim=1)


def resized(maps: torch.Tensor, size: torch.Size | tuple[int, ...]) -> torch.Tensor:
    """Bilinear, corners not aligned."""
    if maps.shape[2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
