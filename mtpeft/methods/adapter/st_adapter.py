"""ST-Adapter: a bottleneck with a depth-wise convolution over time in the stream of a frozen image transformer.

Pan et al., "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning", NeurIPS 2022 (arXiv 2206.13559), section 3.2.
Class and register tokens pass by. The authors' models on Kinetics have one before every MLP (the default), those on
Something-Something one before attention too; the paper's text describes one before attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import ACTIVATIONS, Activation
from mtpeft.methods.base import MethodConfig, SiteModule
from mtpeft.methods.spec import register
from mtpeft.options import Count, Name, OddSize

POSITIONS = {"pre_mlp": ("frames_mlp",), "pre_attn": ("frames_block",), "both": ("frames_block", "frames_mlp")}


@dataclass(frozen=True, kw_only=True)
class STAdapterConfig(MethodConfig):
    """`position` pre_mlp, pre_attn or both (`sites` says it otherwise); `kernel` (time, height, width), odd numbers.

    `activation` after the convolution: none as in the authors' code, or relu, gelu, silu.
    """

    sites: tuple[Name, ...] = ()
    position: Literal["pre_mlp", "pre_attn", "both"] = "pre_mlp"
    bottleneck_dim: Count = 384
    kernel: tuple[OddSize, OddSize, OddSize] = (3, 1, 1)
    activation: Literal["none"] | Activation = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sites", self.sites or POSITIONS[self.position])


@register(
    "st_adapter",
    STAdapterConfig,
    paper="Pan et al., NeurIPS 2022 (arXiv 2206.13559)",
    weights="L * ((2 * d + 5) * bottleneck_dim + d)",
)
class STAdapter(SiteModule):
    """W_up f(conv(W_down x + b_d)) + b_u is added; the convolution starts at zero."""

    styles: ClassVar[tuple[str, ...]] = ("frames", "frames_branch")

    def __init__(self, config: STAdapterConfig, site: Site) -> None:
        super().__init__(config, site)
        hidden = config.bottleneck_dim
        self.site = site
        self.down = nn.Linear(site.dim, hidden)
        self.conv = nn.Conv3d(hidden, hidden, config.kernel, padding="same", groups=hidden)
        self.activation = ACTIVATIONS[config.activation]() if config.activation != "none" else nn.Identity()
        self.up = nn.Linear(hidden, site.dim)
        for tensor in (self.down.bias, self.conv.weight, self.conv.bias, self.up.bias):
            nn.init.zeros_(tensor)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stream x (B, T, P + HW, d) -> what is added to it, the same shape; zero for the P prefix tokens."""
        prefix = self.site.prefix_tokens
        z = self.down(x[:, :, prefix:]).permute(0, 3, 1, 2)  # (B, r, T, HW)
        z = self.up(self.activation(self._convolve(z)).permute(0, 2, 3, 1))
        return F.pad(z, (0, 0, prefix, 0))

    def _convolve(self, z: torch.Tensor) -> torch.Tensor:
        """(B, r, T, HW) -> the same shape. A kernel over time alone needs no grid, and runs as a faster 2D convolution."""
        conv = self.conv
        if conv.kernel_size[1:] == (1, 1):
            padding = (conv.kernel_size[0] // 2, 0)
            return F.conv2d(z, conv.weight.squeeze(-1), conv.bias, padding=padding, groups=z.shape[1])
        return conv(z.unflatten(3, self.site.grid_of(z.shape[3]))).flatten(3)
