"""Mona: adapters of several convolutions in the stream, one behind the attention branch and one behind the MLP branch.

Yin et al., "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks", CVPR 2025
(arXiv 2408.08345), section 3. Made for Swin; class and register tokens go through the same convolutions as maps of one pixel.
Published totals (4.16 M weights on Swin-B) are larger than those of the released code, which this follows: 3,667,456.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Rate

KERNELS = (3, 5, 7)


@dataclass(frozen=True, kw_only=True)
class MonaConfig(MethodConfig):
    """`bottleneck_dim` h of 64 in the authors' models; `dropout` of hidden units.

    `init` of the layer above: `trunc_normal` of standard deviation 0.02 as in the authors' code, or `zeros`, so that the
    model is its own at the start.
    """

    sites: Sites = ("parallel_attn", "parallel_mlp")
    bottleneck_dim: Count = 64
    dropout: Rate = 0.1
    init: Literal["trunc_normal", "zeros"] = "trunc_normal"


@register(
    "mona",
    MonaConfig,
    paper="Yin et al., CVPR 2025 (arXiv 2408.08345)",
    properties=Properties(identity_at_init=False),
    weights="2 * L * (2 * d * bottleneck_dim + bottleneck_dim ** 2 + 88 * bottleneck_dim + 5 * d)",
)
class Mona(SiteModule):
    """z + W_up drop(gelu(g(f(W_down u + b_d)))) + b_u on the stream z, with u = gamma LN(z) + gamma_x z.

    f(h) = h + (DW3 h + DW5 h + DW7 h) / 3 in depth-wise convolutions, g(h) = h + W_1 h + b_1 by a 1x1 convolution.
    """

    def __init__(self, config: MonaConfig, site: Site) -> None:
        super().__init__(config, site)
        dim, hidden = site.dim_out, config.bottleneck_dim
        self.site = site
        self.norm = nn.LayerNorm(dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.gamma_x = nn.Parameter(torch.ones(dim))
        self.down = nn.Linear(dim, hidden)
        self.depthwise = nn.ModuleList(nn.Conv2d(hidden, hidden, k, padding=k // 2, groups=hidden) for k in KERNELS)
        self.pointwise = nn.Conv2d(hidden, hidden, 1)
        self.up = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(config.dropout)
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if config.init == "zeros":
            nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """A branch's input x and output y, (B, P + HW, d) or (B, H, W, d) -> y and what the adapter adds to x + y."""
        stream = x + y
        hidden = self.down(self.norm(stream) * self.gamma + stream * self.gamma_x)
        prefix, patches = self.site.split_prefix(hidden)  # (B, P, h), (B, h, H, W)
        kernel, bias = self._mean()
        reach = kernel.shape[-1] // 2
        patches = patches + F.conv2d(patches, kernel, bias, padding=reach, groups=len(kernel))
        patches = (patches + self.pointwise(patches)).flatten(2).transpose(1, 2)
        if prefix.shape[1]:
            # on a 1x1 map with zero padding only the centre of a kernel acts
            prefix = prefix + prefix * kernel[:, 0, reach, reach] + bias
            prefix = prefix + F.linear(prefix, self.pointwise.weight[:, :, 0, 0], self.pointwise.bias)
            patches = torch.cat([prefix, patches], dim=1)
        return y + self.up(self.dropout(F.gelu(patches))).view_as(y)

    def _mean(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean of the depth-wise convolutions as one: that of their kernels in frames of zeros, (h, 1, 7, 7), and biases."""
        layers: Any = self.depthwise
        kernels = [F.pad(c.weight, [(max(KERNELS) - k) // 2] * 4) for c, k in zip(layers, KERNELS, strict=True)]
        return torch.stack(kernels).mean(0), torch.stack([layer.bias for layer in layers]).mean(0)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """It needs the stream behind a branch, and the map that its tokens form."""
        if other := sorted({site.kind for site in sites} - {"parallel_attn", "parallel_mlp"}):
            return f"it cannot act at the sites {', '.join(other)}, only at parallel_attn and parallel_mlp"
        return "its convolutions need tokens that form a map" if any(s.grid == (0, 0) for s in sites) else None
