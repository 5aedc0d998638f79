"""SAM-LST: a ResNet-18 that sees the image beside a frozen encoder; one gate mixes their final maps.

Chai et al., "Ladder Fine-tuning approach for SAM integrating complementary network", 2023 (arXiv 2306.12737), section 3. In
spite of its name nothing inside the encoder is read. On SAM's image encoder the two maps have the same size and width; on
other backbones the ResNet's is brought to the features' width by a 1 x 1 convolution and to their size bilinearly, and
prefix tokens get its mean. The mask decoder, of which the paper trains a part, is a task's head here.

Batch norms of the ResNet run in training mode, as in the authors' code: a batch of several tasks is then run task by task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.side.convnets import ResNet18
from mtpeft.methods.side.maps import like_features
from mtpeft.methods.side.side_tuning import both_needed
from mtpeft.methods.spec import Properties, register


@dataclass(frozen=True, kw_only=True)
class SAMLSTConfig(MethodConfig):
    """`init` of the ResNet: random, or imagenet as in the paper (downloads torchvision's weights).

    `alpha` is the gate's logit at the start: 0 mixes half and half.
    """

    sites: Sites = ("pixels", "features")
    init: Literal["random", "imagenet"] = "random"
    alpha: float = 0.0


@register(
    "sam_lst",
    SAMLSTConfig,
    paper="Chai et al., 2023 (arXiv 2306.12737)",
    properties=Properties(memory_efficient=True, identity_at_init=False),
    weights="2782784 + 257 * d + 1",
)
class SAMLST(SiteModule):
    """F = g E(x) + (1 - g) C(x), g = sigmoid(alpha): E the frozen encoder, C the ResNet's map."""

    stateful: ClassVar[bool] = True
    styles: ClassVar[tuple[str, ...]] = ("input", "features")

    def __init__(self, config: SAMLSTConfig, site: Site) -> None:
        super().__init__(config, site)
        self.site = site
        if site.kind == "pixels":
            self.side = ResNet18(site.in_channels, config.init == "imagenet")
        else:
            self.alpha = nn.Parameter(torch.tensor(float(config.alpha)))
            same = site.dim == ResNet18.width
            self.project = nn.Identity() if same else nn.Conv2d(ResNet18.width, site.dim, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, C, H, W) leave the ResNet's map as state; at the features it is mixed into y."""
        if self.site.kind == "pixels":
            return y, self.side(x)
        (own,) = state
        gate = torch.sigmoid(self.alpha)
        return gate * y + (1 - gate) * like_features(self.site, self.project(own), y), own

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """One place to see the image, one to mix, and images of three channels."""
        if sites[0].in_channels != 3:
            return f"its ResNet sees images of 3 channels, and the backbone's have {sites[0].in_channels}"
        return both_needed(sites)
