"""IDPT: one prompt made of each image's own patches by graph convolutions, in the last block.

Zha et al., "Instance-aware Dynamic Prompt Tuning for Pre-trained Point Cloud Models", ICCV 2023 (arXiv 2304.07221), section
3. Made for groups of points; here the tokens are patches, and neighbours are those of most similar features, as there. A
vision transformer adds positions once, so the prompt carries none (the authors give it a vector that they do not train).

The authors' head sees class token, prompt and the largest of every channel over the patches, all behind the final norm
(`head_input="all"`, three times as wide); where features are a mean over tokens, the prompt is among them. Batch norms of
the generator see one task at a time, and under gradient checkpointing every batch twice, which changes no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import Blocks, MethodConfig, SiteModule, Sites, wide
from mtpeft.methods.precision import without_autocast
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count


@dataclass(frozen=True, kw_only=True)
class IDPTConfig(MethodConfig):
    """`num_neighbours` k of the graph, the patch itself among them; all patches where there are fewer.

    `num_layers`: graph convolutions of the generator (the authors try 3, 2 and 1). `head_input`: what heads of pooled
    features read; all, the prompt alone (the authors' choice for objects with background), or what the backbone pools.
    """

    sites: Sites = ("tokens",)
    blocks: Blocks | None = (-1,)
    num_neighbours: Count = 20
    num_layers: Count = 3
    head_input: Literal["all", "prompt", "pooled"] = "all"

    #: tokens that leave the last block count among those that features are pooled over
    pool_prompts: ClassVar[bool] = True


class EdgeConv(nn.Module):
    """h_i <- max over neighbours j of leaky_relu(BN(W [h_j - h_i; h_i])), neighbours in the space of h."""

    def __init__(self, dim: int, num_neighbours: int) -> None:
        super().__init__()
        self.num_neighbours = num_neighbours
        self.linear = nn.Linear(2 * dim, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(B, N, d) -> (B, N, d)."""
        near = nearest(h, self.num_neighbours)  # (B, N, k)
        difference, own = self.linear.weight.chunk(2, dim=1)
        there, here = nn.functional.linear(h, difference), nn.functional.linear(h, own - difference)
        index = near.flatten(1).unsqueeze(-1).expand(-1, -1, h.shape[-1])
        edges = there.gather(1, index).unflatten(1, near.shape[1:]) + here.unsqueeze(
            2
        )  # W applied before the gathering
        normed = self.norm(edges.reshape(-1, h.shape[-1])).reshape(edges.shape)
        return nn.functional.leaky_relu(normed, 0.2).amax(dim=2)


@torch.no_grad()
def nearest(h: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (B, N, k) of the `count` nearest of N points by Euclidean distance, in float32 at least."""
    h = wide(h)
    with without_autocast(h):
        squares = h.square().sum(dim=-1)
        distances = squares.unsqueeze(2) - 2 * h @ h.mT + squares.unsqueeze(1)
    return distances.topk(min(count, h.shape[1]), dim=2, largest=False).indices


@register(
    "idpt",
    IDPTConfig,
    paper="Zha et al., ICCV 2023 (arXiv 2304.07221)",
    properties=Properties(identity_at_init=False),
    weights="num_layers * (3 * d ** 2 + 2 * d) + 2 * d",
)
class IDPT(SiteModule):
    """p = max over patches of leaky_relu(BN(W [h^1; h^2; h^3])), h^l the graph convolutions one after another."""

    styles: ClassVar[tuple[str, ...]] = ("tokens",)
    joins: ClassVar[bool] = True

    def __init__(self, config: IDPTConfig, site: Site) -> None:
        super().__init__(config, site)
        self.start, d, layers = site.prefix_tokens, site.dim, config.num_layers
        self.convs = nn.ModuleList(EdgeConv(d, config.num_neighbours) for _ in range(layers))
        self.fuse = nn.Linear(layers * d, d, bias=False)
        self.norm = nn.BatchNorm1d(d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Block input x (B, P + N, d) -> the prompt (B, 1, d)."""
        h = x[:, self.start :]
        levels = []
        for conv in self.convs:
            h = conv(h)
            levels.append(h)
        fused = self.fuse(torch.cat(levels, dim=-1))
        normed = self.norm(fused.reshape(-1, h.shape[-1])).reshape(fused.shape)
        return nn.functional.leaky_relu(normed, 0.2).amax(dim=1, keepdim=True)

    @staticmethod
    def feature_dim(config: Any, dim: int, sites: Sequence[Site]) -> int:
        """3 d for all, else d."""
        return 3 * dim if config.head_input == "all" else dim

    @staticmethod
    def combine(config: Any, pooled: torch.Tensor, read: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, d), prompt (B, 1, d) and patches (B, N, d) -> (B, 3 d) or (B, d)."""
        prompt, patches = read
        if config.head_input == "pooled":
            return pooled
        if config.head_input == "prompt":
            return prompt.squeeze(1)
        return torch.cat([pooled, prompt.squeeze(1), patches.amax(dim=1)], dim=1)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Heads read the prompt as the last block leaves it."""
        if any(site.block == site.depth - 1 for site in sites):
            return None
        return "heads read its prompt from the last block: blocks has to hold it"
