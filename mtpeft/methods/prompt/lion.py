"""LION: two implicit layers, whose fixed points are added to the image and to the final features of the frozen backbone.

Wang et al., "LION: Implicit Vision Prompt Tuning", AAAI 2024 (arXiv 2303.09992), section 3. No code was published: layers in
front of the input and behind the output that are equilibria, and their sums with image and features, are the paper's; the
function whose fixed point is sought follows multiscale equilibrium models, widths and solver are ours.

The second layer acts on every token, or cell of a map, behind the final norm, so that heads of all kinds read it; where
features are a class token that is the layer on pooled features. Fixed points are sought in float32 at least. The paper also
lets weights of low score |w dL/dw| decay to zero; that is a way of training and no part of the layers. Batches of several
tasks neither compile nor export: torch's tracers have no rule for functions of this kind under vmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.fixed_point import Solver, fixed_point
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive, WholeNumber


@dataclass(frozen=True, kw_only=True)
class LIONConfig(MethodConfig):
    """`hidden_channels` m of the layer on images, `hidden_dim` r of the one on features.

    `tolerance` and `max_steps` of the solvers; `backward_steps`: terms of the Neumann series that gradients take beyond the
    first, with 0 those of one step alone.
    `learnable_scale` multiplies what is added by a trained number that starts at zero; the paper adds it as it is.
    """

    sites: Sites = ("pixels", "features")
    hidden_channels: Count = 16
    hidden_dim: Count = 64
    tolerance: Positive = 1e-3
    max_steps: Count = 30
    backward_steps: WholeNumber = 20
    learnable_scale: bool = False


def convolutional(z: torch.Tensor, u: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
    """f of images (B, C, H, W): 3 x 3 convolutions, norms over an image."""
    return step(z, u, weights, lambda x, w: F.conv2d(x, w, padding=1), lambda x, w, b: F.group_norm(x, 1, w, b))


def pointwise(z: torch.Tensor, u: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
    """f of features (B, ..., d): linear layers, norms over a token."""
    return step(z, u, weights, F.linear, lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b))


def step(z: torch.Tensor, u: torch.Tensor, weights: Sequence[torch.Tensor], layer: Any, norm: Any) -> torch.Tensor:
    """f(z; u) = N_3(relu(z + N_2(u + C_2 N_1(relu(C_1 z)))))."""
    c1, c2, *norms = weights
    hidden = norm(layer(z, c1).relu(), *norms[:2])
    return norm((z + norm(u + layer(hidden, c2), *norms[2:4])).relu(), *norms[4:])


@register(
    "lion",
    LIONConfig,
    paper="Wang et al., AAAI 2024 (arXiv 2303.09992)",
    properties=Properties(identity_at_init=False),
    weights="56 * hidden_channels + 12 + 2 * d * hidden_dim + 2 * hidden_dim + 4 * d",
)
class LION(SiteModule):
    """u + z*, z* = f(z*; u); C_1 and C_2 from N(0, 0.01^2), without bias."""

    styles: ClassVar[tuple[str, ...]] = ("input", "features")

    def __init__(self, config: LIONConfig, site: Site) -> None:
        super().__init__(config, site)
        self.axis = site.channel_axis
        self.solver = Solver(config.tolerance, config.max_steps, config.backward_steps)
        self.images, d = site.kind == "pixels", site.dim
        hidden, kernel = (config.hidden_channels, (3, 3)) if self.images else (config.hidden_dim, ())
        self.c1 = nn.Parameter(torch.empty(hidden, d, *kernel).normal_(std=0.01))
        self.c2 = nn.Parameter(torch.empty(d, hidden, *kernel).normal_(std=0.01))
        self.norm_weights = nn.ParameterList(torch.ones(width) for width in (hidden, d, d))
        self.norm_biases = nn.ParameterList(torch.zeros(width) for width in (hidden, d, d))
        self.scale = nn.Parameter(torch.zeros(())) if config.learnable_scale else None

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Images y (B, C, H, W), or features (B, N, d), (B, H, W, d) or (B, d, H, W) -> the same shape."""
        first = not self.images and self.axis == 1
        u = wide(y.movedim(1, -1) if first else y)
        norms = [tensor for pair in zip(self.norm_weights, self.norm_biases, strict=True) for tensor in pair]
        weights = [wide(tensor) for tensor in (self.c1, self.c2, *norms)]
        f = convolutional if self.images else pointwise
        z = fixed_point(f, torch.zeros_like(u), (u, *weights), self.solver).to(y.dtype)
        z = z.movedim(-1, 1) if first else z
        return y + (z if self.scale is None else self.scale * z)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """An image, and what becomes of it."""
        foreign = sorted({site.kind for site in sites} - {"pixels", "features"})
        return f"it acts on pixels and features, not on {', '.join(foreign)}" if foreign else None
