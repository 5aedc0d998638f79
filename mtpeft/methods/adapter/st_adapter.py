"""ST-Adapter: a bottleneck with a depth-wise convolution over time in the stream of a frozen image transformer.

Pan et al., "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning", NeurIPS 2022 (arXiv 2206.13559), section 3.2.
Class and register tokens pass by. The authors' models on Kinetics have one before every MLP (the default), those on
Something-Something one before attention too; the paper's text describes one before attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError, nearest
from mtpeft.methods.adapter.bottleneck import ACTIVATIONS
from mtpeft.methods.base import MethodConfig, SiteModule, register

POSITIONS = {"pre_mlp": ("frames_mlp",), "pre_attn": ("frames_block",), "both": ("frames_block", "frames_mlp")}


@dataclass(frozen=True, kw_only=True)
class STAdapterConfig(MethodConfig):
    """`position` pre_mlp, pre_attn or both (`sites` says it otherwise); `kernel` (time, height, width), odd numbers.

    `activation` after the convolution: none as in the authors' code, or relu, gelu, silu.
    """

    position: str = "pre_mlp"
    bottleneck_dim: int = 384
    kernel: tuple[int, int, int] = (3, 1, 1)
    activation: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position not in POSITIONS:
            raise ConfigError(f"st_adapter: no position {self.position!r}.{nearest(self.position, POSITIONS)}")
        kernel = self.kernel if isinstance(self.kernel, (list, tuple)) else ()
        if len(kernel) != 3 or any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in kernel):
            raise ConfigError(
                f"st_adapter: kernel is {self.kernel!r}, expected three odd numbers (time, height, width)"
            )
        if not isinstance(self.bottleneck_dim, int) or self.bottleneck_dim < 1:
            raise ConfigError(f"st_adapter: bottleneck_dim is {self.bottleneck_dim!r}, expected a whole number from 1")
        object.__setattr__(self, "sites", self.sites or POSITIONS[self.position])
        object.__setattr__(self, "kernel", tuple(kernel))


@register("st_adapter", STAdapterConfig, paper="Pan et al., NeurIPS 2022 (arXiv 2206.13559)")
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

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """The activation has to be known."""
        known = ("none", *ACTIVATIONS)
        return None if config.activation in known else f"activation {config.activation!r} is none of {', '.join(known)}"
