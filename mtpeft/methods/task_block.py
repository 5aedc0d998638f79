"""The rest of a stage's last block for one task, and what the methods that go this way have in common.

Agiza et al. (CVPR 2024) let every task leave the shared pass inside the last block of a stage, behind the attention product:
proj, the residual, the second norm, fc1, the activation, fc2 and the second residual are the task's own way. The methods that
follow them differ in what the three linear layers give.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from timm.layers import Mlp

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError
from mtpeft.methods.base import Taps, TaskStream
from mtpeft.options import Count, Length

#: kind of the site that is the norm behind the last block
FINAL_NORM = "final_norm"
#: kinds of the sites a task's way goes through
LAYERS = ("proj", "fc1", "fc2")
#: one rank for all stages, or one of each, finest first
Ranks = Count | Annotated[tuple[Count, ...], Length(at_least=1)]


class TaskBlock(TaskStream, ABC):
    """One task's way through the last block of a stage; subclasses say what its linear layers give."""

    taps: ClassVar[tuple[str, ...]] = LAYERS

    def __init__(self, config: Any, block: Any, sites: Mapping[str, Site]) -> None:
        super().__init__(config, block, sites)
        self.parts = [block]  # in a list: the block is the backbone's, not the stream's

    @abstractmethod
    def layer(self, kind: str, x: torch.Tensor, taps: Taps) -> torch.Tensor:
        """The task's input x (..., in) of layer `kind` -> its output (..., out); x is laid out as that layer's own input."""

    def attended(self, taps: Taps) -> torch.Tensor:
        """What goes into the task's proj: by default what goes into the shared one."""
        return taps.x["proj"]

    def forward(self, taps: Taps) -> torch.Tensor:
        """The task's block output less the shared one."""
        return self.output(taps, self.attended(taps)) - taps.output

    def output(self, taps: Taps, attended: torch.Tensor) -> torch.Tensor:
        """The task's block output, laid out as the block's own; `attended` goes into its proj."""
        block: Any = self.parts[0]
        projected = self.layer("proj", attended, taps)
        entry, branch = taps.entry, taps.unwindow(_scaled(block.attn, "proj_drop", projected))
        stream = entry + block.drop_path1(_scaled(block, "ls1", branch)).reshape(entry.shape)
        normed = block.norm2(stream).reshape(taps.x["fc1"].shape)
        hidden = block.mlp.act(self.layer("fc1", normed, taps))
        hidden = block.mlp.norm(block.mlp.drop1(hidden))
        out = block.mlp.drop2(self.layer("fc2", hidden, taps))
        return stream + block.drop_path2(_scaled(block, "ls2", out)).reshape(entry.shape)

    @staticmethod
    def unsupported(config: Any, block: Any, anatomy: Any) -> str | None:
        """A stream goes the way of a block that norms first and has a plain MLP."""
        calls = anatomy.calls
        norm_first = calls[block.norm2].order < calls[block.mlp].order
        if norm_first and type(block.mlp) is Mlp and getattr(block, "gamma_1", None) is None:
            return None
        return f"its task streams need blocks that norm first, with an MLP of fc1, activation and fc2 ({type(block).__name__})"


def _scaled(block: Any, name: str, x: torch.Tensor) -> torch.Tensor:
    layer = getattr(block, name, None)
    return x if layer is None else layer(x)


def backbone_weights(config: Any, anatomy: Any, merging: bool = False) -> list[str]:
    """The backbone's own weights that their code trains (`train_backbone`): patch embedding, norms, position tables, `merging`.

    The final norm only where features are read behind it (`final_norm`).
    """
    if not config.train_backbone:
        return []
    trained = [s for s in anatomy.sites if "norms" in s.tags and (config.final_norm or s.kind != FINAL_NORM)]
    stem = set(anatomy.stem.parameters())
    norms = {name for site in trained for name in (site.weight, site.bias)}
    return [
        name
        for name, parameter in anatomy.backbone.named_parameters()
        if name in norms or parameter in stem or "relative_position" in name or (merging and ".reduction." in name)
    ]


def backbone_weights_and_merging(config: Any, anatomy: Any) -> list[str]:
    """The same and patch merging, unless the method acts on that."""
    return backbone_weights(config, anatomy, merging="reduction" not in config.sites)


def with_final_norm(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> list[Site]:
    """The sites asked for, and the final norm where there is one that is left out: its module returns the norm's input."""
    return [*sites, *(s for s in every if s.kind == FINAL_NORM and not config.final_norm and s not in sites)]


def rank_at(ranks: Ranks, site: Site) -> int:
    """The rank of the site's stage."""
    return ranks if isinstance(ranks, int) else ranks[site.stage or 0]


def check_ranks(every: Sequence[Site], **ranks: Ranks) -> None:
    """Raise `ConfigError` where there is another number of ranks than of stages, `every` site of the backbone given."""
    stages = 1 + max(site.stage for site in every if site.stage is not None)
    for name, given in ranks.items():
        if not isinstance(given, int) and len(given) != stages:
            raise ConfigError(f"{name} has {len(given)} values, and the backbone {stages} stages: one for each")


def missing_layers(sites: Sequence[Site]) -> str | None:
    """Why the sites are too few for a stream, which goes through all three layers behind the attention product, or None."""
    missing = set(LAYERS) - {site.kind for site in sites}
    return "its task streams need the sites proj, fc1 and fc2" if missing else None
