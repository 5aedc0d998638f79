"""VPT: learned tokens between the prefix tokens and the patch tokens, at the first block or at every block.

Jia et al., "Visual Prompt Tuning", ECCV 2022 (arXiv 2203.12119), sections 3.2 (shallow, equations 4 and 5; deep,
equation 7). Prompts carry no position. Shallow prompts flow through all blocks; deep prompts are thrown away after each
block and replaced by the next block's own.

On Swin every window sees the same prompts, without relative position and whatever the shift mask says.
What shallow prompts read is averaged over the windows, and patch merging sees each prompt four times along the channels.
With 50 tokens on Swin-T a task has 220,800 weights (deep) or 4,800 (shallow). One difference to the authors' code: a
prompt meets the windows of its own image only (theirs mixes the images of a batch). Under drop path, which is off by
default, prompts and patches are dropped independently of each other. SwinV2 and PVTv2 have no place for prompts.

With `projection_dim` q prompts are learned at width q and brought to the model's by one linear layer, as by `PROJECT` in the
authors' code: the same for all blocks of a width, from He's normal distribution.

Where features are a mean over tokens (Swin, MAE, DINOv3 in timm), the prompts that leave the last block are averaged with
the patches, as in the authors' code (`pool_prompts=False`: patches alone, their `img_pool`). With `pool_prompts="alone"`
features are the mean of these prompts alone, behind the final norm, also where the backbone's are those of a class token:
what L2P classifies by (Wang et al., CVPR 2022, section 4.1). Maps never hold prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import Blocks, MethodConfig, SiteModule, Sites
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, OneOf, Rate

#: of `pool_prompts`: pooled features are the prompts' alone, whatever the backbone pools over
ALONE = "alone"


@dataclass(frozen=True, kw_only=True)
class VPTShallowConfig(MethodConfig):
    """`num_tokens` p; `dropout` on the prompts (the authors use none for shallow).

    `pool_prompts`: prompts count in features that are a mean over tokens; class token features do not change. "alone":
    features of either kind are a mean over prompts.
    `projection_dim`: the width prompts are learned at, None for the model's own.
    """

    sites: Sites = ("tokens",)
    blocks: Blocks | None = (0,)
    num_tokens: Count = 50
    dropout: Rate = 0.0
    pool_prompts: bool | Annotated[str, OneOf((ALONE,))] = True
    projection_dim: Count | None = None


@dataclass(frozen=True, kw_only=True)
class VPTDeepConfig(MethodConfig):
    """`num_tokens` p per block; `dropout` 0.1 as in the authors' commands.

    `pool_prompts` and `projection_dim` as for `vpt_shallow`.
    """

    sites: Sites = ("tokens",)
    num_tokens: Count = 50
    dropout: Rate = 0.1
    pool_prompts: bool | Annotated[str, OneOf((ALONE,))] = True
    projection_dim: Count | None = None


class Projections(nn.Module):
    """A linear layer from the prompts' own width to every width of the model; none where prompts have the model's."""

    def __init__(self, config: VPTShallowConfig | VPTDeepConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        widths = sorted({site.dim for site in sites}) if config.projection_dim is not None else []
        self.layers = nn.ModuleDict({str(w): nn.Linear(config.projection_dim or w, w) for w in widths})
        for layer in self.layers.values():
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")  # type: ignore[arg-type]

    def forward(self, prompts: torch.Tensor, width: int) -> torch.Tensor:
        """(..., q) -> (..., width)."""
        return self.layers[str(width)](prompts) if self.layers else prompts


class PromptTokens(SiteModule):
    """p tokens (p, d), uniform in +-sqrt(6 / (3 P^2 + e)) for patch size P and width e of the patch embedding.

    Of tokens that are projected e is their own width q.
    """

    styles: ClassVar[tuple[str, ...]] = ("tokens",)
    beside: ClassVar[Mapping[str, int | None]] = {"prompts": 0}
    model_module: ClassVar[type[nn.Module] | None] = Projections

    def __init__(self, config: VPTShallowConfig | VPTDeepConfig, site: Site) -> None:
        super().__init__(config, site)
        self.dim, own = site.dim, config.projection_dim
        bound = math.sqrt(6 / (3 * site.patch_size**2 + (own or site.embed_dim)))
        self.prompts = nn.Parameter(torch.empty(config.num_tokens, own or site.dim).uniform_(-bound, bound))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, model: Any) -> torch.Tensor:
        """Block input x (B, N, d) -> prompts (B, p, d); the dropout mask differs per sample."""
        return self.dropout(model(self.prompts, self.dim).expand(x.shape[0], -1, -1))


@register(
    "vpt_shallow",
    VPTShallowConfig,
    paper="Jia et al., ECCV 2022 (arXiv 2203.12119)",
    properties=Properties(structure_preserving=True, identity_at_init=False),
    weights="d * num_tokens",
)
class VPTShallow(PromptTokens):
    """Prompts at the first block only; they pass through all blocks."""

    carry: ClassVar[bool] = True


@register(
    "vpt_deep",
    VPTDeepConfig,
    paper="Jia et al., ECCV 2022 (arXiv 2203.12119)",
    properties=Properties(structure_preserving=True, identity_at_init=False),
    weights="L * d * num_tokens",
)
class VPTDeep(PromptTokens):
    """Fresh prompts at every block, of the block's own width."""
