"""VMT-Adapter: one adapter for all tasks in parallel to the MLP, and a scale and a shift of each task's own.

Xin et al., "VMT-Adapter: Parameter-Efficient Transfer Learning for Multi-Task Dense Scene Understanding", AAAI 2024
(arXiv 2312.08733), section 3. The shared adapter alone feeds the next block, so the encoder runs once for any number of
tasks; a task's features leave it at the stage ends, where its knowledge extraction acts on the shared bottleneck.

The paper has no public code. Our reading where its text leaves a choice: the adapter reads the output of LN2, activation
GELU, knowledge extraction on the bottleneck at the last block of every stage. On Swin-T with rho = 4 and four tasks the
adapters hold 1,083,792 weights, a task 720 at the stage ends (four tasks in all blocks 8,832), all norms 24,768: 1.11 to
1.12 M, beside 1.13 M recalled from the paper. Norms alone do not close the gap; knowledge extraction on the output in all blocks
(35,328) and the norm before each adapter (8,832) do, at 1,127,952. Lite at rho = 4 has half of it, 0.54 M; the published 0.40 M
corresponds to a narrower bottleneck (rho 5 to 6).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.adapter.bottleneck import ACTIVATIONS, Activation, affine_factors, bottleneck_width
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, Taps, TaskStream
from mtpeft.methods.spec import register
from mtpeft.options import Count


@dataclass(frozen=True, kw_only=True)
class VMTAdapterConfig(MethodConfig):
    """`reduction` rho: hidden width d / rho, or `bottleneck_dim` for a fixed one; `activation` gelu, relu or silu.

    `ke_position`: a task's scale and shift act on the `bottleneck` or on the adapter's `output`; `ke_blocks`: at each
    `stage_end`, or in `all` blocks, whose contributions add up within a stage.
    """

    sites: Sites = ("parallel_mlp_ln",)
    reduction: Count | None = 4
    bottleneck_dim: Count = 64
    activation: Activation = "gelu"
    ke_position: Literal["bottleneck", "output"] = "bottleneck"
    ke_blocks: Literal["stage_end", "all"] = "stage_end"


class KnowledgeExtraction(TaskStream):
    """z_t = a_t * z + c_t on the shared bottleneck z (or on the adapter's output); starts at a = 1, c = 0."""

    taps: ClassVar[tuple[str, ...]] = ("parallel_mlp_ln",)

    def __init__(self, config: VMTAdapterConfig, block: nn.Module, sites: Mapping[str, Site]) -> None:
        super().__init__(config, block, sites)
        site = sites[self.taps[0]]
        self.on_bottleneck = config.ke_position == "bottleneck"
        width = bottleneck_width(site, config.bottleneck_dim, config.reduction) if self.on_bottleneck else site.dim
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, taps: Taps) -> torch.Tensor:
        """The task's adapter output less the shared one, (B, ...) like the block's output."""
        adapter, x = taps.modules[self.taps[0]], taps.x[self.taps[0]]
        shared = adapter.hidden(x) if self.on_bottleneck else adapter.up(adapter.hidden(x), bias=True)
        moved = (self.scale - 1) * shared + self.shift
        return (adapter.up(moved) if self.on_bottleneck else moved).reshape(taps.output.shape)

    @staticmethod
    def blocks(config: Any, ends: Sequence[int], depth: int) -> Sequence[int]:
        """The stage ends, or all blocks."""
        return range(depth) if config.ke_blocks == "all" else ends


class _Adapter(SiteModule, ABC):
    """y + up(act(down(x))); subclasses hold the projections."""

    factored = True

    def __init__(self, config: VMTAdapterConfig, site: Site) -> None:
        super().__init__(config, site)
        self.width = bottleneck_width(site, config.bottleneck_dim, config.reduction)
        self.activation = ACTIVATIONS[config.activation]()
        self.down = nn.Parameter(torch.empty(self.width, site.dim))
        self.down_bias = nn.Parameter(torch.zeros(self.width))
        self.up_bias = nn.Parameter(torch.zeros(site.dim))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., d) -> z (..., d / rho)."""
        return self.activation(nn.functional.linear(x, self.down, self.down_bias))

    @abstractmethod
    def up_weight(self) -> torch.Tensor:
        """(d, d / rho)."""

    def up(self, z: torch.Tensor, bias: bool = False) -> torch.Tensor:
        """z (..., d / rho) -> (..., d)."""
        return nn.functional.linear(z, self.up_weight(), self.up_bias if bias else None)

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., d) -> [z, 1] and [W_up, b_u]^T."""
        return affine_factors(self.hidden(x), self.up_weight(), self.up_bias)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """The places are the method's own."""
        other = [site.kind for site in sites if site.kind != KnowledgeExtraction.taps[0]]
        return f"it acts on {KnowledgeExtraction.taps[0]}, not on {other[0]!r}" if other else None


@register(
    "vmt_adapter",
    VMTAdapterConfig,
    paper="Xin et al., AAAI 2024 (arXiv 2312.08733)",
    stream=KnowledgeExtraction,
    weights="L * (2 * d * r + r + d) + 8 * r where r = d // reduction",
)
class VMTAdapter(_Adapter):
    """Both projections shared by all tasks; W_up and the biases start at zero."""

    def __init__(self, config: VMTAdapterConfig, site: Site) -> None:
        super().__init__(config, site)
        self.up_matrix = nn.Parameter(torch.zeros(site.dim, self.width))

    def up_weight(self) -> torch.Tensor:
        """W_up."""
        return self.up_matrix


@register(
    "vmt_adapter_lite",
    VMTAdapterConfig,
    paper="Xin et al., AAAI 2024 (arXiv 2312.08733)",
    stream=KnowledgeExtraction,
    weights="L * (d * r + r + d + 1) + 8 * r where r = d // reduction",
)
class VMTAdapterLite(_Adapter):
    """One matrix serves both projections: W_up = s W_down^T. The scalar s starts at zero, so W itself need not."""

    def __init__(self, config: VMTAdapterConfig, site: Site) -> None:
        super().__init__(config, site)
        self.scale = nn.Parameter(torch.zeros(()))

    def up_weight(self) -> torch.Tensor:
        """s W_down^T."""
        return self.scale * self.down.T
