"""DTL and DTL+: a low-rank side state beside the frozen blocks, added back to the late ones.

Fu, Zhu and Wu, "DTL: Disentangled Transfer Learning for Visual Recognition", AAAI 2024 (arXiv 2312.07856), section 3. Each
block's input leaves a product of low rank in the state h; from one block on, theta(h) is added to what leaves a block. The
blocks before it stay as they are, so no gradient passes through them, and their features serve all tasks.

On a pyramid the state begins anew in every stage. Features are read as the backbone reads them; the authors' code takes the
mean over the patches and the final norm behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.side.maps import beside_maps
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, Positive


@dataclass(frozen=True, kw_only=True)
class DTLConfig(MethodConfig):
    """`rank` d' of the product (2 on ViT-B, 4 on Swin-B); `beta` of theta.

    `feedback_from`: the first block that theta(h) is added to, by index, negative from the end; None for the paper's M = 7 of
    12, rounded down, of the blocks (`blocks`): block 6 of ViT-B, and block 14 of Swin-B where blocks 4 to 23 are read, both as
    published. Stages before it are not read.
    """

    sites: Sites = ("block",)
    rank: Count = 2
    beta: Positive = 100.0
    feedback_from: int | None = None


@dataclass(frozen=True, kw_only=True)
class DTLPlusConfig(DTLConfig):
    """`kernel_size` k of the convolution of DTL+: 3, 4 or 5 in the paper. For `rank`, `beta` and `feedback_from` see DTL."""

    kernel_size: Count = 3


def first_feedback(config: DTLConfig, depth: int) -> int:
    """The first block with feedback."""
    if config.feedback_from is not None:
        return config.feedback_from % depth
    blocks = sorted(range(depth) if config.blocks is None else {block % depth for block in config.blocks})
    return blocks[max(1, len(blocks) * 7 // 12) - 1]


@register(
    "dtl",
    DTLConfig,
    paper="Fu, Zhu and Wu, AAAI 2024 (arXiv 2312.07856)",
    properties=Properties(),
    weights="2 * L * d * rank",
)
class DTL(SiteModule):
    """h_i = h_(i-1) + x_i A_i^T B_i^T;  y_i + theta(h_i) from block M on, theta(h) = h sigmoid(beta h); B_i zero."""

    stateful: ClassVar[bool] = True

    def __init__(self, config: DTLConfig, site: Site) -> None:
        super().__init__(config, site)
        self.down = nn.Linear(site.dim, config.rank, bias=False)
        self.up = nn.Linear(config.rank, site.dim, bias=False)
        nn.init.zeros_(self.up.weight)
        self.site, self.beta = site, config.beta
        self.feedback = (site.block or 0) >= first_feedback(config, site.depth)

    def forward(self, x: torch.Tensor, y: torch.Tensor, *state: torch.Tensor, **model: Any) -> tuple[torch.Tensor, ...]:
        """The block's input x and output y, (B, N, d) or (B, H, W, d), and h -> the new output, and h."""
        h = self.up(self.down(x))
        if state and state[0].shape == h.shape:  # another shape: a new stage begins
            h = state[0] + h
        return (y + self.fed_back(h, **model) if self.feedback else y), h

    def fed_back(self, h: torch.Tensor) -> torch.Tensor:
        """theta(h)."""
        return theta(h, self.beta)

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Blocks whose state still reaches a block with feedback: a stage without any is not read."""
        late = {stage_of(site): site.block for site in sites if (site.block or 0) >= first_feedback(config, site.depth)}
        return [site for site in sites if (site.block or 0) <= (late.get(stage_of(site), -1) or 0)] or sites

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """The state has the width and the place of what enters and of what leaves a block."""
        if any(site.kind != "block" for site in sites):
            return f"it acts at the site block alone, not at {', '.join(sorted({s.kind for s in sites} - {'block'}))}"
        depth, first = sites[0].depth, config.feedback_from
        if first is not None and not -depth <= first < depth:
            return f"feedback_from={first} is no block: the backbone has {depth}"
        if all((site.block or 0) < first_feedback(config, depth) for site in sites):
            return f"nothing is added to any block: feedback_from={first} lies behind its last one"
        wide = next((site for site in sites if site.dim != site.dim_out), None)
        return None if wide is None else f"block {wide.block} takes {wide.dim} channels and gives {wide.dim_out}"


def theta(h: torch.Tensor, beta: float) -> torch.Tensor:
    """h sigmoid(beta h): a Swish as sharp as `beta`, near to ReLU."""
    return nn.functional.silu(beta * h) / beta


class ConvolvedTheta(torch.autograd.Function):
    """conv(theta(h)) of a map h (B, C, H, W), with h alone kept for backward: both are as quick to make again as to read."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: torch.Tensor, weight: torch.Tensor, beta: float) -> torch.Tensor:
        """`weight` (C, 1, k, k); an even k reaches further to the right and to the bottom."""
        return nn.functional.conv2d(_framed(theta(h, beta), weight), weight.to(h.dtype), groups=weight.shape[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, float], output: torch.Tensor) -> None:
        """Keep the map and the kernel."""
        h, weight, ctx.beta = inputs
        ctx.save_for_backward(h, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """theta'(h) = s (1 + beta h (1 - s)) with s = sigmoid(beta h)."""
        h, weight = ctx.saved_tensors
        s = torch.sigmoid(ctx.beta * h)
        framed = _framed((h * s).to(weight.dtype), weight)
        none, one, groups = [0, 0], [1, 1], weight.shape[0]
        by_framed, by_weight, _ = torch.ops.aten.convolution_backward(
            gradient.to(weight.dtype), framed, weight, None, one, none, one, False, none, groups, [True, True, False]
        )
        first = (weight.shape[-1] - 1) // 2
        by_theta = by_framed[..., first : first + h.shape[-2], first : first + h.shape[-1]]
        return (by_theta * (s * (1 + ctx.beta * h * (1 - s)))).to(h.dtype), by_weight, None


def _framed(maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Maps with the frame of zeros after which what leaves a convolution has its size."""
    size = weight.shape[-1]
    return nn.functional.pad(maps, ((size - 1) // 2, size // 2) * 2)


class SharedConvs(nn.Module):
    """One depthwise convolution for all blocks of a stage."""

    def __init__(self, config: DTLPlusConfig, sites: Sequence[Site]) -> None:
        super().__init__()
        late = [site for site in sites if (site.block or 0) >= first_feedback(config, site.depth)]
        sizes = {stage_of(site): site.dim for site in late}
        convs = {stage: nn.Conv2d(d, d, config.kernel_size, groups=d, bias=False) for stage, d in sizes.items()}
        self.stages = nn.ModuleDict(convs)


def stage_of(site: Site) -> str:
    """A name for the blocks whose state goes on from one to the next: those of one width and map."""
    return f"{site.dim}x{site.grid[0]}x{site.grid[1]}"


@register(
    "dtl_plus",
    DTLPlusConfig,
    paper="Fu, Zhu and Wu, AAAI 2024 (arXiv 2312.07856)",
    properties=Properties(),
    weights="2 * L * d * rank + d * kernel_size ** 2",
)
class DTLPlus(DTL):
    """DTL with y_i + conv(theta(h_i)): one depthwise convolution for all blocks, which prefix tokens pass by."""

    model_module: ClassVar[type[nn.Module] | None] = SharedConvs

    def fed_back(self, h: torch.Tensor, model: Any = None) -> torch.Tensor:
        """theta(h) with its map convolved."""
        kernel = model.stages[stage_of(self.site)].weight
        return beside_maps(
            self.site, h, lambda patches: ConvolvedTheta.apply(patches, kernel, self.beta), super().fed_back
        )

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Patches have to form a map."""
        if any(site.grid == (0, 0) for site in sites):
            return "its convolution needs the map that the patches form, which the model does not tell"
        return DTL.unsupported(config, sites)
