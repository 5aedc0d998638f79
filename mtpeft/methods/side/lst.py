"""LST: a narrow transformer beside the frozen backbone, fed by its block outputs; no gradient enters the backbone.

Sung, Cho, Bansal, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning", NeurIPS 2022
(arXiv 2206.06522), sections 3.2 (ladders and gates) and 3.3 (initialisation by structural pruning). The paper treats text
models; this is its architecture for a ViT, at the published 2.38 M weights on ViT-B/16.

Its output stands for that of the backbone's final norm, for every token: features are then what the backbone makes of its
own tokens, the class token, or the mean over the patches. A norm that the backbone has behind that mean (MAE, `fc_norm`)
is passed by: the side network ends in a norm of its own, and the paper uses none of the backbone's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from timm.models.vision_transformer import Block
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.side.pruning import prune_into, pruned_weights
from mtpeft.methods.spec import Properties, register
from mtpeft.methods.task_data import TaskData
from mtpeft.options import Count, Positive


@dataclass(frozen=True, kw_only=True)
class LSTConfig(MethodConfig):
    """`reduction` r gives width d / r; `temperature` T of the gates; `init` prune, fisher or random.

    `prune` copies the rows of the backbone's weights that matter most by magnitude (the paper's fallback where no task
    gradients are at hand), `fisher` those that matter most to the task, by the empirical Fisher information of
    `fisher_samples` of its images: the squared gradient of its loss, with its head as it starts. Parts a backbone's block does
    not have, such as a gated MLP's, keep their own initialisation.
    """

    sites: Sites = ("side",)
    reduction: Count = 8
    temperature: Positive = 0.1
    init: Literal["prune", "fisher", "random"] = "prune"
    fisher_samples: Count = 1024


@register(
    "lst",
    LSTConfig,
    paper="Sung et al., NeurIPS 2022 (arXiv 2206.06522)",
    properties=Properties(memory_efficient=True, identity_at_init=False),
    weights="L + (L + 1) * (d + 1) * r + L * (12 * r ** 2 + 13 * r) + 2 * r + (r + 1) * d where r = d // reduction",
)
class LST(SiteModule):
    """s_0 = D_0 x_0;  s_i = S_i(mu_i s_{i-1} + (1 - mu_i) D_i x_i),  mu_i = sigmoid(a_i / T);  y = U LN(s_L)."""

    styles: ClassVar[tuple[str, ...]] = ("side",)

    def __init__(self, config: LSTConfig, site: Site) -> None:
        super().__init__(config, site)
        width = site.dim // config.reduction
        self.temperature = config.temperature
        self.gates = nn.Parameter(torch.zeros(site.depth))
        self.downs = nn.ModuleList(nn.Linear(site.dim, width) for _ in range(site.depth + 1))
        self.blocks = nn.ModuleList(Block(width, site.num_heads, qkv_bias=True) for _ in range(site.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, site.dim)
        for linear in (*self.downs, self.up):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
        if config.init == "prune":
            prune_into(list(self.blocks), self.norm, site)

    def forward(self, *taps: torch.Tensor) -> torch.Tensor:
        """Embedded tokens and every block's output, L + 1 times (B, N, d) -> (B, N, d)."""
        state = self.downs[0](taps[0])
        mix = torch.sigmoid(self.gates / self.temperature)
        for index, (block, down, tap) in enumerate(zip(self.blocks, self.downs[1:], taps[1:], strict=True)):
            state = block(mix[index] * state + (1 - mix[index]) * down(tap))
        return self.up(self.norm(state))

    @staticmethod
    def needs_fit(config: Any) -> bool:
        """The Fisher information is that of the task's data."""
        return bool(config.init == "fisher")

    @staticmethod
    def fit(config: Any, modules: Mapping[str, Any], data: TaskData) -> None:
        """Squared gradients of one image's loss after another, added up; the side network is pruned by them."""
        ((key, module),) = modules.items()
        site = data.sites[key]
        weights = pruned_weights(site)
        sums = {weight: torch.zeros_like(weight) for weight in weights}
        seen = 0
        for images, labels in data:
            for image, label in zip(images.split(1), labels.split(1), strict=True):
                found = torch.autograd.grad(data.loss(image, label), weights, allow_unused=True, materialize_grads=True)
                for weight, gradient in zip(weights, found, strict=True):
                    sums[weight] += gradient.square()
                seen += 1
                if seen == config.fisher_samples:
                    break
            if seen == config.fisher_samples:
                break
        prune_into(list(module.blocks), module.norm, site, sums)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """The side blocks keep the backbone's number of heads."""
        site = sites[0]
        if (site.dim // config.reduction) % site.num_heads or site.dim % config.reduction:
            return (
                f"reduction={config.reduction} gives a width of {site.dim / config.reduction:g}, "
                f"which {site.num_heads} heads do not divide"
            )
        return None
