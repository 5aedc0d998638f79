"""FAAR: a DoRA in every block and one of each task's own at the stage ends, whose ranks training chooses.

Fontana, Spratling, Shi, "FAAR: Efficient Frequency-Aware Multi-Task Fine-Tuning via Automatic Rank Selection", CVPR 2026
(arXiv 2603.20403). Sites and streams are MTLoRA's: adapters that all tasks share on qkv, proj, fc1 and fc2 of every block, and
in the last block of a stage one per task on proj, fc1 and fc2. An adapter is DoRA's: m (W + a B A) / ||W + a B A||; as in
MTLoRA, the frozen product of a task's layer is that of the shared stream, its low-rank part sees the task's.

Performance-driven rank shrinking (PDRS). Every step draws b uniformly in 1 to r for every adapter and uses its first b ranks, so
that what is useful gathers in front. Once gradients are there a rank scores
s_i = (|<A_i, dL/dA_i>| + |<B_i, dL/dB_i>|) / 2, with A_i a row and B_i a column, and S_i <- beta S_i + (1 - beta) s_i. At the end
of an epoch ranks are sorted by S, the smallest number with a share rho of the sum stays, and the others are deleted for
good, each adapter on its own. Ranks keep their place in A and B, and an order says which come first: what an optimiser
remembers of a weight stays with it, and that of a deleted rank moves nothing that is used. In evaluation nothing is drawn.
An adapter that got no gradient in an epoch stays as it is: those shared ones of the last block that no task's features pass.

Left out is the method's other half, the spectral decoder module (TS-PD: filters on the features' spectra, and a term
that draws a task's spectrum to the mean of the others'): it stands between features and heads, and needs the features of
all tasks at once, for which there is no place here. In the paper's ablation on PASCAL-Context it takes +4.92 to +5.28.

Not given in what we have of the paper, and ours: the scale a (that of MTLoRA's configs), beta, one b for each adapter rather
than one for all, that the norm is a constant in the backward pass (DoRA's), and which of the backbone's own weights are
trained: MTLoRA's but for patch merging, whose 1,548,288 weights do not fit into the 3.38 M published. On Swin-T with four
tasks, r ranks everywhere: shared 16 r * 4,416 + 39,744, tasks r * 69,120 + 34,560, own weights 51,258 (52,794 with the
final norm). Deleted ranks stay in memory and in files, as zeros, so that shapes stay; they are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.methods.base import MethodConfig, SiteModule, Sites, Taps
from mtpeft.methods.paced import Paced
from mtpeft.methods.reparameter.dora import DoRA, DoRAConfig
from mtpeft.methods.spec import Properties, register
from mtpeft.methods.task_block import FINAL_NORM, TaskBlock, backbone_weights, missing_layers, with_final_norm
from mtpeft.options import Count, Positive, Range, Rate

#: a share of the scores' sum
Coverage = Annotated[float, Range(above=0, at_most=1)]


@dataclass(frozen=True, kw_only=True)
class FAARConfig(MethodConfig):
    """`rank` and `task_rank`: r that shared and task adapters start with (64; 16 and 32 give nearly the same result).

    `coverage` rho: the share of the scores' sum that the ranks kept at the end of an epoch have; `momentum` beta of the scores;
    `min_rank`: no adapter shrinks below it. `scale` a multiplies B A. `dropout` on the input of A of shared adapters and of a
    task's first one. `train_backbone`: also train the patch embedding, norms and relative-position tables. `final_norm`: heads
    read the backbone's output behind its final norm, which is trained then too; MTLoRA's authors leave it out.
    """

    sites: Sites = ("qkv", "proj", "fc1", "fc2")
    rank: Count = 64
    task_rank: Count = 64
    coverage: Coverage = 0.95
    momentum: Rate = 0.99
    min_rank: Count = 1
    scale: Positive = 4.0
    dropout: Rate = 0.0
    train_backbone: bool = True
    final_norm: bool = False

    def dora(self, rank: int, dropout: float = 0.0) -> DoRAConfig:
        """DoRA of so many ranks at this scale."""
        return DoRAConfig(rank=rank, alpha=self.scale * rank, dropout=dropout)


class ShrinkingDoRA(DoRA, Paced):
    """DoRA whose leading ranks, in an order of their own, take part: `width` of them within a step, `rank` at any other time.

    `place` (r,): where a rank stands in that order; those that stand at `rank` or behind are deleted. `score` (r,) is S,
    `seen` the number of scores it got since the last epoch's end.
    """

    def __init__(self, config: FAARConfig, rank: int, site: Site, dropout: float = 0.0) -> None:
        super().__init__(config.dora(rank, dropout), site)
        self.coverage, self.momentum, self.least = config.coverage, config.momentum, min(config.min_rank, rank)
        self.register_buffer("place", torch.arange(rank))
        self.register_buffer("rank", torch.tensor(rank))
        self.register_buffer("width", torch.tensor(rank), persistent=False)  # nothing between steps
        self.register_buffer("score", torch.zeros(rank))
        self.register_buffer("seen", torch.tensor(0))
        self.place: torch.Tensor
        self.rank: torch.Tensor
        self.width: torch.Tensor
        self.score: torch.Tensor
        self.seen: torch.Tensor

    def product(self, constants: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """a B and diag(m) A, m_i = 1 for the ranks that take part and 0 for the others, which get no gradient then."""
        left, right = super().product(constants)
        limit = torch.minimum(self.width, self.rank) if self.training else self.rank
        return left, right * (self.place < limit).to(right.dtype).unsqueeze(1)

    def before_step(self) -> None:
        """Draw b uniformly in 1 to r."""
        drawn = torch.rand((), dtype=torch.float64).item()
        self.width.copy_(self.rank * drawn).add_(1)

    @torch.no_grad()
    def after_backward(self) -> None:
        """S <- beta S + (1 - beta) s; gradients that are not finite leave it as it is. The step's b has had its use."""
        self.width.copy_(self.rank)
        a, b = self.lora_A, self.lora_B
        if a.grad is None or b.grad is None:
            return
        score = ((a * a.grad).sum(1).abs() + (b * b.grad).sum(0).abs()) / 2
        fine = score.isfinite().all()
        new = torch.lerp(self.score, score.to(self.score.dtype), 1 - self.momentum)
        self.score.copy_(torch.where(fine, new, self.score))
        self.seen.add_(fine)

    @torch.no_grad()
    def after_epoch(self) -> None:
        """Keep the fewest ranks whose scores have the share rho of the sum, highest first; delete the others."""
        rank, place = int(self.rank), self.place.cpu()
        if self.seen:
            score = self.score.cpu().double().where(place < rank, -1.0)  # what was deleted stays last
            order = score.argsort(descending=True, stable=True)
            covered = score[order][:rank].cumsum(0)
            enough = 1 + int((covered < self.coverage * covered[-1]).sum())
            kept = min(max(enough, self.least), rank) if covered[-1] > 0 else rank
            place[order] = torch.arange(len(order))
            self.place.copy_(place)
            self.rank.fill_(kept)
            self.width.fill_(kept)
            self.seen.zero_()
        gone = self.place >= self.rank
        self.lora_A.masked_fill_(gone.unsqueeze(1), 0)
        self.lora_B.masked_fill_(gone, 0)
        self.score.masked_fill_(gone, 0)

    @property
    def deleted(self) -> int:
        """The rows of A and the columns of B that were deleted."""
        ranks, wide = self.lora_A.shape
        return (ranks - int(self.rank)) * (wide + self.lora_B.shape[0])


class TaskDoRA(TaskBlock):
    """One task's way through the last block of a stage."""

    def __init__(self, config: FAARConfig, block: Any, sites: Mapping[str, Site]) -> None:
        super().__init__(config, block, sites)
        self.adapters = nn.ModuleDict(
            {kind: ShrinkingDoRA(config, config.task_rank, site) for kind, site in sites.items()}
        )
        self.dropout = nn.Dropout(config.dropout)

    def attended(self, taps: Taps) -> torch.Tensor:
        """What goes into the shared proj, as an adapter sees it."""
        return self.dropout(taps.x["proj"])

    def layer(self, kind: str, x: torch.Tensor, taps: Taps) -> torch.Tensor:
        """The shared stream's frozen product under the task's lengths, and the task's directions on its own input."""
        return self.adapters[kind](x, taps.y[kind])


@register(
    "faar",
    FAARConfig,
    paper="Fontana et al., CVPR 2026 (arXiv 2603.20403)",
    properties=Properties(identity_at_init=False),
    owned=backbone_weights,
    stream=TaskDoRA,
    weights=(
        "L * (k * rank + 5 * d + m) + 4 * ((k - 4 * d) * task_rank + 2 * d + m) + (3 * p ** 2 + 1) * d + 4 * L * d "
        "where k = 8 * d + 2 * m"
    ),
)
class FAAR(SiteModule):
    """The adapter of a site that all tasks share; at the final norm x, as if it were not there."""

    paced = True

    def __init__(self, config: FAARConfig, site: Site) -> None:
        super().__init__(config, site)
        skips = site.kind == FINAL_NORM
        self.adapter = None if skips else ShrinkingDoRA(config, config.rank, site, config.dropout)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The site's input x (..., in) and output y (..., out) -> its new output."""
        return x if self.adapter is None else self.adapter(x, y)

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Those asked for, and the final norm, where there is one that is left out."""
        return with_final_norm(config, sites, every)

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """A low-rank product needs a linear layer, and a stream all three layers behind the attention product."""
        adapted = [site for site in sites if site.kind != FINAL_NORM]
        return DoRA.unsupported(config.dora(config.rank), adapted) or missing_layers(sites)
