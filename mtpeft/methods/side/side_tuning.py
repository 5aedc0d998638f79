"""Side-Tuning: a small network that sees the image itself, mixed into the frozen backbone's features by one gate.

Zhang et al., "Side-Tuning: A Baseline for Network Adaptation via Additive Side Networks", ECCV 2020 (arXiv 1912.13503),
section 3. Nothing inside the backbone is read or changed. The sides of the paper are convolutional: `fcn5` that of its
Taskonomy experiments, `fcn4` that of CIFAR; there they are distilled from the base first, here they start at random.
`alexnet` is the side of the port to vision transformers (Jia et al., ECCV 2022, baseline "Sidetune"): AlexNet's
convolutions, from ImageNet there.

Features are mixed where they leave the backbone, so that every head reads the mixture: cell by cell where the side gives a
map, prefix tokens with its mean. A norm that the backbone has behind the pooling (MAE) comes after the mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.side.convnets import FCN4, FCN5, AlexNet
from mtpeft.methods.side.maps import like_features
from mtpeft.methods.spec import Properties, register

SIDES: dict[str, Any] = {"fcn4": FCN4, "fcn5": FCN5, "alexnet": AlexNet}


@dataclass(frozen=True, kw_only=True)
class SideTuningConfig(MethodConfig):
    """`side` fcn5, fcn4 or alexnet; `init` of AlexNet: random, or imagenet (downloads torchvision's weights).

    `alpha` is the gate's logit at the start: 0 mixes half and half.
    """

    sites: Sites = ("pixels", "features")
    side: Literal["fcn5", "fcn4", "alexnet"] = "fcn5"
    init: Literal["random", "imagenet"] = "random"
    alpha: float = 0.0


@register(
    "side_tuning",
    SideTuningConfig,
    paper="Zhang et al., ECCV 2020 (arXiv 1912.13503)",
    properties=Properties(memory_efficient=True, identity_at_init=False),
    weights="921376 + 8 * d + 1",
)
class SideTuning(SiteModule):
    """f = g E(x) + (1 - g) W S(x), g = sigmoid(alpha): E the frozen backbone, S the side network, W without bias."""

    stateful: ClassVar[bool] = True
    styles: ClassVar[tuple[str, ...]] = ("input", "features")

    def __init__(self, config: SideTuningConfig, site: Site) -> None:
        super().__init__(config, site)
        self.site = site
        if site.kind == "pixels":
            self.side = SIDES[config.side](site.in_channels, config.init == "imagenet")
        else:
            self.alpha = nn.Parameter(torch.tensor(float(config.alpha)))
            self.project = nn.Linear(SIDES[config.side].width, site.dim, bias=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, C, H, W) leave the side's features as state; at the features these are mixed into y."""
        if self.site.kind == "pixels":
            return y, self.side(x)
        (own,) = state
        projected = self.project(own.movedim(1, -1)).movedim(-1, 1)  # (B, d, h, w), one cell for a vector
        gate = torch.sigmoid(self.alpha)
        return gate * y + (1 - gate) * like_features(self.site, projected, y), own

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """One place to see the image, one to mix."""
        if config.side == "alexnet" and sites[0].in_channels != 3:
            return f"AlexNet sees images of 3 channels, and the backbone's have {sites[0].in_channels}"
        if config.init == "imagenet" and config.side != "alexnet":
            return f"init='imagenet' is for side='alexnet', and the side is {config.side!r}"
        return both_needed(sites)


def both_needed(sites: Sequence[Site]) -> str | None:
    """Why a network that reads the image and is mixed into the features cannot act at these sites."""
    if sorted(site.kind for site in sites) == ["features", "pixels"]:
        unknown = any(site.kind == "features" and site.grid == (0, 0) for site in sites)
        return "it adds maps to the final features, and theirs is not known" if unknown else None
    return (
        f"it reads pixels and changes features, both and nothing else; the sites are {', '.join(s.kind for s in sites)}"
    )
